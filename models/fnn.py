"""FNN is an MLP over all that a factorization machine has of a row (Zhang, Du & Wang, ECIR 2016)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.mlp import MLP, MLPConfig


class FNNConfig(PointwiseConfig):
    """`fnn` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its first-order weight")
    mlp: MLPConfig = Field(default=MLPConfig(hidden=(400, 400), activation="tanh"), description="over z")


class FNN(Recommender):
    """y = MLP(z), z = (w0, w_d x_d ..., [w_f, v_f] ...): an MLP over everything that an FM has of a row (eqs. 1 to 4).

    Tables and the linear part are those of `FM`, so that a stage copies a trained one whole and z starts from it. A
    dense feature enters as its first-order term w_d x_d.
    """

    def __init__(self, fields: Fields, config: FNNConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim, zero_columns=1))
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        self.linear = Affine(len(fields.dense))
        self.mlp = MLP(1 + len(fields.dense) + field.width, config.mlp)
        if self.mlp.takes_away_shifts:
            keep_at_zero(self.linear.bias)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + D], [B, N] -> [B]."""
        return self.mlp(self.signals(field, dense)).squeeze(1)

    def signals(self, field: Tensor, dense: Tensor) -> Tensor:
        """Returns z: [B, F, 1 + D], [B, N] -> [B, 1 + N + F (1 + D)]."""
        first = self.linear.bias.expand(field.shape[0], 1)
        numbers = dense if self.linear.weight is None else dense * self.linear.weight
        return torch.cat([first, numbers, field.flatten(1)], 1)
