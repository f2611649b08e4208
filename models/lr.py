"""Logistic (or linear) regression is the baseline that every other model has to beat."""

from torch import Tensor

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine


class LRConfig(PointwiseConfig):
    """`lr` has no settings beside those that every pointwise model has."""


class LR(Recommender):
    """y = w0 + sum_i w_i x_i over ids and dense features; a sigmoid over it is the task's. Weights start at 0."""

    def __init__(self, fields: Fields, config: LRConfig) -> None:
        super().__init__(
            inputs={
                "field": PooledEmbeddings(fields.tables(embedding_dim=0, zero_columns=1)),
                "dense": DenseFeatures(fields.dense),
            },
            task=config.build_task(fields.schema),
        )
        self.linear = Affine(len(fields.dense), config.start)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1], [B, N] -> [B]."""
        return self.linear(dense) + field.sum((1, 2))
