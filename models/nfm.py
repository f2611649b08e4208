"""NFM puts the sum of all pairs' products through an MLP (He & Chua, SIGIR 2017)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.fm import fm_terms
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.moments import BatchNorm


class NFMConfig(PointwiseConfig):
    """`nfm` has these settings of its own; `dropout` and `batch_norm` are the bi-interaction's, the MLP has others."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its first-order weight")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the bi-interaction vector")
    batch_norm: bool = Field(default=True, description="of the bi-interaction vector")
    mlp: MLPConfig = MLPConfig()


class NFM(Recommender):
    """y = w0 + sum_i w_i x_i + h . MLP(f_BI), f_BI = sum_{i<j} v_i x_i * v_j x_j (eqs. 2 to 4).

    Dense features enter the linear part, and the MLP beside f_BI. Without hidden layers, without batch norm and with h
    one on f_BI it is the FM.
    """

    def __init__(self, fields: Fields, config: NFMConfig) -> None:
        tables = fields.tables(embedding_dim=config.embedding_dim, zero_columns=1)
        field = PooledEmbeddings(tables)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        width = field.width // len(tables) - 1
        self.linear = Affine(len(fields.dense), config.start)
        self.norm = BatchNorm(width) if config.batch_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = MLP(width + len(fields.dense), config.mlp)
        if isinstance(self.norm, BatchNorm) and self.mlp.takes_away_shifts and not config.dropout:
            keep_at_zero(self.norm.bias)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + D], [B, N] -> [B]."""
        first, pairs = fm_terms(field)
        deep = self.mlp(torch.cat([self.dropout(self.norm(pairs)), dense], 1))
        return self.linear(dense) + first + deep.squeeze(1)
