"""DLRM puts the dot products of all pairs of vectors through an MLP (Naumov et al., arXiv 1906.00091, 2019)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.product import InnerProducts


class DLRMConfig(PointwiseConfig):
    """`dlrm` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    bottom: MLPConfig = Field(
        default=MLPConfig(hidden=(512, 256, 64)), description="of the dense features; a layer of D units follows"
    )
    mlp: MLPConfig = Field(default=MLPConfig(hidden=(512, 256)), description="the top MLP")


class DLRM(Recommender):
    """y = top([z; all dot products of two of z, e_1, ..., e_F]), z = bottom(dense) in R^D (section 2.1.3).

    As in the authors' code, the bottom MLP ends in an activation and a vector is not paired with itself. Without dense
    features there is no z.
    """

    def __init__(self, fields: Fields, config: DLRMConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim))
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        vectors, num_dense = len(field.tables), len(fields.dense)
        dim = field.width // vectors
        if vectors + bool(num_dense) < 2:
            raise UserError(
                "dlrm: one id feature and no dense ones make no pair; give it two features, or use lr or embedding_mlp"
            )
        layers = config.bottom.model_copy(update={"hidden": (*config.bottom.hidden, dim)})
        self.bottom = MLP(num_dense, layers, out=None) if num_dense else None
        self.dots = InnerProducts(vectors + bool(num_dense), squares=False)
        self.top = MLP((dim if num_dense else 0) + self.dots.width, config.mlp)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, D], [B, N] -> [B]."""
        if self.bottom is None:
            return self.top(self.dots(field)).squeeze(1)
        z = self.bottom(dense)
        dots = self.dots(torch.cat([z.to(field.dtype)[:, None], field], 1))
        return self.top(torch.cat([z, dots], 1)).squeeze(1)
