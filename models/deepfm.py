"""DeepFM adds a factorization machine and an MLP over the same embeddings (Guo et al., IJCAI 2017)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.fm import fm_terms, fm_terms_and_factors
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.mlp import MLP, MLPConfig


class DeepFMConfig(PointwiseConfig):
    """`deepfm` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31, description="factors a row, beside its first-order weight")
    mlp: MLPConfig = MLPConfig()


class DeepFM(Recommender):
    """y = y_FM + y_DNN (eq. 1): an FM and an MLP over the same embeddings; the MLP takes dense features too."""

    def __init__(self, fields: Fields, config: DeepFMConfig) -> None:
        tables = fields.tables(embedding_dim=config.embedding_dim, zero_columns=1)
        field = PooledEmbeddings(tables)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        self.linear = Affine(len(fields.dense), config.start)
        self.mlp = MLP(field.width - len(tables) + len(fields.dense), config.mlp)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + D], [B, N] -> [B]."""
        if torch.is_grad_enabled() or are_compiled(field, dense):
            first, pairs, factors = fm_terms_and_factors(field, dense)
            deep = self.mlp(factors)
        else:  # an MLP that only scores takes columns as they lie
            first, pairs = fm_terms(field)
            deep = self.mlp(field[:, :, 1:], dense)
        return self.linear(dense) + first + pairs.sum(1) + deep.squeeze(1)
