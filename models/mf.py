"""Matrix factorization adds biases to a dot product (Koren, Bell & Volinsky, IEEE Computer 2009, eq. 4)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.shared_space import Towers
from shardrec.models.user_item import UserItemConfig, user_and_item


class MFConfig(UserItemConfig):
    """`mf` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its bias")
    mean: float | None = Field(
        default=None, description="where mu, which is learned, starts; None: the middle of `clip`, 0 without one"
    )


class MF(Recommender):
    """r = p_u . q_i + b_u + b_i + mu; rows are [b; p] and [b; q], biases from 0."""

    def __init__(self, fields: Fields, config: MFConfig) -> None:
        tables = fields.tables(embedding_dim=config.embedding_dim, features=config.pair(fields), zero_columns=1)
        super().__init__(inputs=user_and_item(tables), task=config.build_task(fields.schema))
        self.mean = nn.Parameter(torch.tensor([config.start if config.mean is None else config.mean]))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """[B, 1 + D], [B, 1 + D] -> [B]."""
        return self.mean + user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(1)

    def towers(self) -> Towers:
        """Returns [1; p_u] and [b_i; q_i]: a user's own bias and mu rank no items."""
        return Towers(_with_one, _as_it_is, ("user",), ("item",))


def _with_one(user: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(user[:, :1]), user[:, 1:]], 1)


def _as_it_is(item: Tensor) -> Tensor:
    return item
