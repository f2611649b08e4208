"""Wide & Deep trains a linear part and an MLP jointly (Cheng et al., DLRS 2016)."""

from pydantic import Field
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.mlp import MLP, MLPConfig


class WideDeepConfig(PointwiseConfig):
    """`wide_deep` has these settings of its own; `wide` and `deep` are names or patterns of features."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = MLPConfig()
    wide: tuple[str, ...] | None = Field(default=None, description="features of the wide part; None: all")
    deep: tuple[str, ...] | None = Field(default=None, description="of the deep part; None: all but crosses")


class WideDeep(Recommender):
    """y = w_wide . [x, phi(x)] + w_deep . a^(L) + b (eq. 3), trained jointly.

    Cross-product transformations phi are features whose ids are a cross of others'. Tables are called `wide/...` (one
    weight a row, from 0) and `deep/...`, whose dims may differ. `dense` are the wide part's; the deep part has them
    too, or its own. Raises UserError for a part without features.
    """

    def __init__(self, fields: Fields, config: WideDeepConfig) -> None:
        wide_names, wide_dense = _chosen(fields, config.wide, "wide")
        deep_names, deep_dense = _chosen(fields, config.deep, "deep")
        if config.deep is None:
            deep_names = _uncrossed(fields)
        wide = fields.tables(embedding_dim=0, zero_columns=1, features=wide_names, group="wide")
        deep = PooledEmbeddings(
            fields.tables(embedding_dim=config.embedding_dim, features=deep_names, group="deep"), concat=True
        )
        own_dense = {} if deep_dense == wide_dense else {"deep_dense": DenseFeatures(deep_dense)}
        super().__init__(
            inputs={"wide": PooledEmbeddings(wide), "deep": deep, "dense": DenseFeatures(wide_dense), **own_dense},
            task=config.build_task(fields.schema),
        )
        self.linear = Affine(len(wide_dense), config.start)
        self.mlp = MLP(deep.width + len(deep_dense), config.mlp)

    def forward(self, wide: Tensor, deep: Tensor, dense: Tensor, deep_dense: Tensor | None = None) -> Tensor:
        """[B, F, 1], [B, sum of D], [B, N], [B, M] (None: the same as `dense`) -> [B]."""
        of_deep = dense if deep_dense is None else deep_dense
        return self.linear(dense) + wide.sum((1, 2)) + self.mlp(deep, of_deep).squeeze(1)


def _chosen(fields: Fields, patterns: tuple[str, ...] | None, part: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the features of ids and the dense ones of a part, by default all."""
    if patterns is None:
        return fields.pooled, fields.dense
    if not patterns:
        raise UserError(
            f"model: `{part}: []` leaves the {part} part without a feature; name some, or leave `{part}` out"
        )
    pooled, dense = fields.select_with_dense(patterns)
    if not pooled:
        raise UserError(
            f"model: `{part}` names no id or id_list feature, only {', '.join(dense)}; name one of them too, or leave "
            f"`{part}` out"
        )
    return pooled, dense


def _uncrossed(fields: Fields) -> tuple[str, ...]:
    """Returns the features of the deep part, where nothing chooses them."""
    uncrossed = tuple(name for name in fields.pooled if fields.schema[name].cross is None)
    if fields.pooled and not uncrossed:
        raise UserError("model: the deep part has no feature, as all are crosses; name some by `deep`")
    return uncrossed
