"""Embedding + MLP is the base model that deep click models are compared with."""

from pydantic import Field
from torch import Tensor

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig


class EmbeddingMLPConfig(PointwiseConfig):
    """`embedding_mlp` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = MLPConfig()


class EmbeddingMLP(Recommender):
    """y = MLP([e_1; ...; e_F; dense]). Tables' dims may differ."""

    def __init__(self, fields: Fields, config: EmbeddingMLPConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim), concat=True)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        self.mlp = MLP(field.width + len(fields.dense), config.mlp)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, sum of D], [B, N] -> [B]."""
        return self.mlp(field, dense).squeeze(1)
