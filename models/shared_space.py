"""A shared space holds vectors of users and of items whose dot products rank items as the model does."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Towers(NamedTuple):
    """Towers are the two halves of a model whose users and items share a space.

    For a given user the model's score grows with <user, item>, so that the largest dot products are its best items.

    user: `user_inputs`, as keywords and in the forms that `forward` gets them in, -> [B, D]
    item: `item_inputs`, likewise, -> [B, D]; what else ranks items (biases, a scale) is folded in
    """

    user: Callable[..., Tensor]
    item: Callable[..., Tensor]
    user_inputs: tuple[str, ...]
    item_inputs: tuple[str, ...]
