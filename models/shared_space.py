"""A shared space holds vectors of users and of items whose dot products rank items as the model does."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Alternatives
from shardrec.models.inputs import Jagged


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

    def vectors(self, inputs: Mapping[str, Any]) -> "Vectors":
        """Returns what both halves make of a model's inputs."""
        return Vectors(
            self.user(**{name: inputs[name] for name in self.user_inputs if name in inputs}),
            self.item(**{name: inputs[name] for name in self.item_inputs if name in inputs}),
        )

    def of_length_one(self) -> "Towers":
        """Returns towers whose vectors have length 1, so that dot products are cosines."""
        user, item = self.user, self.item
        return self._replace(user=lambda **x: unit(user(**x)), item=lambda **x: unit(item(**x)))


class Others(NamedTuple):
    """Others are the items that all rows share, of all ranks.

    item: [C, D] their vectors; ids: [C] int64, -1 for padding; log_q: [C], as in `Alternatives`
    """

    item: Tensor
    ids: Tensor
    log_q: Tensor


class Vectors(NamedTuple):
    """Vectors are what a tower that learns to retrieve returns: user [P, D] and item [B, D].

    Row b's user and item belong together; items from row P on are those that `Alternatives` says. others: None where
    rows share none, and before `Retrieval.completed`.
    """

    user: Tensor
    item: Tensor
    others: Others | None = None

    @property
    def pairs(self) -> Tensor:
        """Returns [P]: the dot product of each row's own user and item."""
        return (self.user * self.item[: self.user.shape[0]]).sum(1)


def unit(vectors: Tensor) -> Tensor:
    """Returns vectors of length 1; one of length 0 stays as it is: [n, D] -> [n, D]."""
    return F.normalize(vectors, dim=1, eps=1e-8)


def users_once(inputs: Mapping[str, Any], user_inputs: tuple[str, ...], alternatives: Alternatives) -> dict[str, Any]:
    """Returns inputs whose user side has the first P rows alone: drawn items and negatives need no user."""
    rows = len(alternatives.items)
    return {
        name: _first(value, rows, alternatives.per_row > 0) if name in user_inputs else value
        for name, value in inputs.items()
    }


def _first(value: Tensor | Jagged, rows: int, more_have_events: bool) -> Tensor | Jagged:
    """Returns the first rows; those of drawn items have no events, those of negatives have their positive's."""
    if isinstance(value, Tensor):
        return value[:rows]
    offsets, lengths = value.offsets[: rows + 1], None if value.host_lengths is None else value.host_lengths[:rows]
    last = len(value.values)
    if more_have_events:
        last = int(offsets[-1] if lengths is None else lengths.sum())
    return Jagged(
        value.values[:last],
        value.lengths[:rows],
        offsets,
        None if value.weights is None else value.weights[:last],
        None if value.dense is None else value.dense[:last],
        lengths,
    )
