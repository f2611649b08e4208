"""Matrix factorization adds biases to a dot product (Koren, Bell & Volinsky, IEEE Computer 2009, eq. 4)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.user_item import UserItemConfig


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
        super().__init__(inputs={"pair": PooledEmbeddings(tables)}, task=config.build_task(fields.schema))
        self.mean = nn.Parameter(torch.tensor([config.start if config.mean is None else config.mean]))

    def forward(self, pair: Tensor) -> Tensor:
        """[B, 2, 1 + D] -> [B]."""
        return self.mean + pair[:, :, 0].sum(1) + (pair[:, 0, 1:] * pair[:, 1, 1:]).sum(1)
