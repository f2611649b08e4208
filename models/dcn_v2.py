"""DCN-v2 crosses fields by weight matrices, before or beside an MLP (Wang et al., WWW 2021)."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.cross import CrossExperts, CrossLayer, LowRankCross
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.mlp import MLP, MLPConfig


class DCNv2Config(PointwiseConfig):
    """`dcn_v2` has these settings of its own; `mlp: {hidden: []}` leaves the deep part off."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    cross_layers: int = Field(default=3, gt=0, le=1000, description="crosses up to degree cross_layers + 1")
    low_rank: int | None = Field(
        default=None, gt=0, lt=2**31, description="rank of the cross layers' matrices; None: full"
    )
    experts: int = Field(default=1, gt=0, le=1000, description="low-rank experts a layer, mixed by a gate")
    structure: Literal["stacked", "parallel"] = "parallel"
    mlp: MLPConfig = MLPConfig()

    @model_validator(mode="after")
    def _experts_are_low_rank(self) -> "DCNv2Config":
        if self.experts > 1 and self.low_rank is None:
            raise ValueError(f"experts {self.experts} needs low_rank: the rank of each expert's matrices")
        return self

    def cross_layer(self, width: int) -> nn.Module:
        """Makes one cross layer over inputs of `width` columns."""
        if self.low_rank is None:
            return CrossLayer(width)
        return (
            LowRankCross(width, self.low_rank)
            if self.experts == 1
            else CrossExperts(width, self.low_rank, self.experts)
        )


class DCNv2(Recommender):
    """y = w . [x_L1; h_L2] + w0 (parallel) or y = w . MLP(x_L1) + w0 (stacked), x_0 = [e_1; ...; e_F; dense].

    Fields' dims may differ.
    """

    def __init__(self, fields: Fields, config: DCNv2Config) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim), concat=True)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        width = field.width + len(fields.dense)
        self.stacked = config.structure == "stacked"
        self.cross = nn.ModuleList(config.cross_layer(width) for _ in range(config.cross_layers))
        self.mlp = MLP(width, config.mlp, out=None) if config.mlp.hidden else None
        deep = self.mlp.width if self.mlp else 0
        self.output = Logit(deep if self.stacked and deep else width + deep, 1)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, sum of D], [B, N] -> [B]."""
        x0 = torch.cat([field, dense], 1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        if self.mlp is not None:
            x = self.mlp(x) if self.stacked else torch.cat([x, self.mlp(x0)], 1)
        return self.output(x).squeeze(1)
