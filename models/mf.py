"""Matrix factorization adds biases to a dot product (Koren, Bell & Volinsky, IEEE Computer 2009, eq. 4)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import Recommender, RetrievalConfig
from shardrec.models.fields import Fields
from shardrec.models.shared_space import Towers, Vectors
from shardrec.models.user_item import UserItemConfig, user_and_item


class MFConfig(UserItemConfig, RetrievalConfig):
    """`mf` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its bias")
    biases: bool | None = Field(
        default=None, description="b_u, b_i and mu; None: in all tasks but retrieval, whose item vectors lack b_i"
    )
    mean: float | None = Field(
        default=None, description="where mu, which is learned, starts; None: the middle of `clip`, 0 without one"
    )


class MF(Recommender):
    """r = p_u . q_i + b_u + b_i + mu; rows are [b; p] and [b; q], biases from 0. Without biases rows are p and q."""

    def __init__(self, fields: Fields, config: MFConfig) -> None:
        biased = config.task != "retrieval" if config.biases is None else config.biases
        tables = fields.tables(
            embedding_dim=config.embedding_dim, features=config.pair(fields), zero_columns=int(biased)
        )
        super().__init__(inputs=user_and_item(tables), task=config.build_any_task(fields.schema))
        self.biases = biased
        start = config.start if config.mean is None else config.mean
        self.mean = nn.Parameter(torch.tensor([start])) if biased and not self.retrieves else None

    def forward(self, user: Tensor, item: Tensor) -> Tensor | Vectors:
        """[B, 1 + D], [B, 1 + D] -> [B]."""
        if self.retrieves:
            return self.vectors(user=user, item=item)
        if self.mean is None:
            return (user * item).sum(1)
        return self.mean + user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(1)

    def halves(self) -> Towers:
        """Returns [1; p_u] and [b_i; q_i]: a user's own bias and mu rank no items. Without biases p_u and q_i."""
        return Towers(_with_one if self.biases else _user, _item, ("user",), ("item",))


def _with_one(user: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(user[:, :1]), user[:, 1:]], 1)


def _user(user: Tensor) -> Tensor:
    return user


def _item(item: Tensor) -> Tensor:
    return item
