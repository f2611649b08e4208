"""AFM weights the pairs of a factorization machine by attention (Xiao et al., IJCAI 2017)."""

from itertools import combinations

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import Explanation, PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.pair_attention import PairAttention


class AFMConfig(PointwiseConfig):
    """`afm` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its first-order weight")
    attention_size: int = Field(default=16, gt=0, lt=2**31, description="hidden units of the attention network")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the pooled pairs")
    attention_dropout: float = Field(default=0.0, ge=0, lt=1, description="of the pairs' weights")


class AFM(Recommender):
    """y = w0 + sum_i w_i x_i + p . sum_{i<j} a_ij (v_i * v_j) x_i x_j (eq. 6), dense features in the linear part.

    p starts at one: uniform attention is then an FM whose pairwise part is divided by the number of pairs.
    """

    def __init__(self, fields: Fields, config: AFMConfig) -> None:
        tables = fields.tables(embedding_dim=config.embedding_dim, zero_columns=1)
        field = PooledEmbeddings(tables)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        width = field.width // len(tables) - 1
        self.pairs = tuple(combinations(tables, 2))
        self.linear = Affine(len(fields.dense), config.start)
        self.attention = PairAttention(len(tables), width, config.attention_size, config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Parameter(torch.ones(width))  # p

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + D], [B, N] -> [B]."""
        pooled = self.dropout(self.attention(field[:, :, 1:]))
        return self.linear(dense) + field[:, :, 0].sum(1) + (pooled * self.output).sum(1)

    def crossings(self, field: Tensor) -> tuple[Tensor, tuple[tuple[str, str], ...]]:
        """Tells which crossings matter for each row: attention [B, P], rows of sum 1, and the P pairs of features."""
        return self.attention.weights(field[:, :, 1:]), self.pairs

    def explain(self, field: Tensor, dense: Tensor) -> Explanation:
        """Returns `crossings`, each named as a cross of its two features would be: `user_x_item`."""
        weights, pairs = self.crossings(field)
        return Explanation(weights, tuple(f"{one}_x_{other}" for one, other in pairs))
