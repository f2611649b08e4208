"""AutoInt lets fields attend to each other, AutoInt+ beside an MLP (Song et al., CIKM 2019)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.pieces import row_blocks
from shardrec.models.layers.self_attention import FieldAttention

_NUMBERS_AT_ONCE = 1 << 19  # on CPUs, of [b, M, width]: 2 MiB in fp32 stay in cache, off the page-fault path


class AutoIntConfig(PointwiseConfig):
    """`autoint` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    layers: int = Field(default=3, gt=0, le=1000, description="of attention over fields")
    heads: int = Field(default=2, gt=0, le=1000)
    head_dim: int = Field(default=32, gt=0, lt=2**31)
    scale: bool = Field(default=False, description="divide attention's products by sqrt(head_dim)")
    mlp: MLPConfig | None = Field(default=MLPConfig(), description="AutoInt+'s; null: AutoInt")


class AutoInt(Recommender):
    """y = w . [e_1; ...; e_M] + b after layers of self-attention over fields (eq. 9), + MLP([e_1; ...; e_F; dense]).

    A dense feature is a field too, e = x v with a vector v of the tower (eq. 4).
    """

    def __init__(self, fields: Fields, config: AutoIntConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim))
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        num_fields, num_dense = len(field.tables), len(fields.dense)
        dim = field.width // num_fields
        self.dense_fields = nn.Parameter(torch.empty(num_dense, dim).uniform_(-0.01, 0.01)) if num_dense else None
        widths = [dim] + [config.heads * config.head_dim] * config.layers
        self.attention = nn.Sequential(
            *(FieldAttention(width, config.heads, config.head_dim, scale=config.scale) for width in widths[:-1])
        )
        self.output = Logit((num_fields + num_dense) * widths[-1], 1)
        self.mlp = MLP(field.width + num_dense, config.mlp) if config.mlp else None

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, D], [B, N] -> [B]."""
        all_fields = field
        if self.dense_fields is not None:
            all_fields = torch.cat([field, dense[:, :, None] * self.dense_fields], 1)
        logit = self._attend(all_fields)
        if self.mlp is not None:
            logit = logit + self.mlp(field, dense).squeeze(1)
        return logit

    def _attend(self, field: Tensor) -> Tensor:
        """[B, M, D] -> [B]; a CPU takes some rows at a time."""
        blocks = row_blocks(field, self.output.in_features, _NUMBERS_AT_ONCE)
        return torch.cat([self.output(self.attention(block).flatten(1)) for block in blocks]).squeeze(1)
