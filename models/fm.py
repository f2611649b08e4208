"""A factorization machine adds up the dot products of all pairs of fields (Rendle, ICDM 2010)."""

from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.fm import fm_terms


class FMConfig(PointwiseConfig):
    """`fm` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its first-order weight")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the D pairwise sums")


class FM(Recommender):
    """y = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j (eq. 1), dense features in the linear part.

    Pairs are of fields: a field of several ids has the (weighted) sum of their vectors as its v.
    """

    def __init__(self, fields: Fields, config: FMConfig) -> None:
        super().__init__(
            inputs={
                "field": PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim, zero_columns=1)),
                "dense": DenseFeatures(fields.dense),
            },
            task=config.build_task(fields.schema),
        )
        self.linear = Affine(len(fields.dense), config.start)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + D], [B, N] -> [B]."""
        first, pairs = fm_terms(field)
        return self.linear(dense) + first + self.dropout(pairs).sum(1)
