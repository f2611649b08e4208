"""Wide & Deep trains a linear part and an MLP jointly (Cheng et al., DLRS 2016)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.mlp import MLP, MLPConfig


class WideDeepConfig(PointwiseConfig):
    """`wide_deep` has these settings of its own; `wide` and `deep` are names or patterns of id and id_list features."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = MLPConfig()
    wide: tuple[str, ...] | None = Field(default=None, description="features of the wide part; None: all")
    deep: tuple[str, ...] | None = Field(default=None, description="of the deep part; None: all but crosses")


class WideDeep(Recommender):
    """y = w_wide . [x, phi(x)] + w_deep . a^(L) + b (eq. 3), trained jointly.

    Cross-product transformations phi are features whose ids are a `cross` of columns; dense features go into both
    parts. Tables are called `wide/...` (one weight a row, from 0) and `deep/...`, whose dims may differ. Raises
    UserError for a part without features.
    """

    def __init__(self, fields: Fields, config: WideDeepConfig) -> None:
        wide = fields.tables(embedding_dim=0, zero_columns=1, features=_wide(fields, config), group="wide")
        deep = PooledEmbeddings(
            fields.tables(embedding_dim=config.embedding_dim, features=_deep(fields, config), group="deep"), concat=True
        )
        super().__init__(
            inputs={
                "wide": PooledEmbeddings(wide),
                "deep": deep,
                "dense": DenseFeatures(fields.dense),
            },
            task=config.build_task(fields.schema),
        )
        self.linear = Affine(len(fields.dense), config.start)
        self.mlp = MLP(deep.width + len(fields.dense), config.mlp)

    def forward(self, wide: Tensor, deep: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1], [B, sum of D], [B, N] -> [B]."""
        return self.linear(dense) + wide.sum((1, 2)) + self.mlp(torch.cat([deep, dense], 1)).squeeze(1)


def _wide(fields: Fields, config: WideDeepConfig) -> tuple[str, ...]:
    """Returns the features of the wide part."""
    if config.wide == ():
        raise UserError("model: `wide: []` leaves the wide part without a feature; name some, or leave `wide` out")
    return fields.select(config.wide)


def _deep(fields: Fields, config: WideDeepConfig) -> tuple[str, ...]:
    """Returns the features of the deep part."""
    if config.deep == ():
        raise UserError("model: `deep: []` leaves the deep part without a feature; name some, or leave `deep` out")
    if config.deep is not None:
        return fields.select(config.deep)
    uncrossed = tuple(name for name in fields.pooled if fields.schema[name].cross is None)
    if fields.pooled and not uncrossed:
        raise UserError("model: the deep part has no feature, as all are crosses; name some by `deep`")
    return uncrossed
