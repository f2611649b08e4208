"""DCN crosses fields explicitly, beside an MLP (Deep & Cross Network, Wang et al., ADKDD 2017)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.cross import CrossNetwork
from shardrec.models.layers.logit import Logit, logits
from shardrec.models.layers.mlp import MLP, MLPConfig


class DCNConfig(PointwiseConfig):
    """`dcn` has these settings of its own; `mlp: {hidden: []}` leaves the deep part off."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    cross_layers: int = Field(default=3, gt=0, le=1000, description="crosses up to degree cross_layers + 1")
    mlp: MLPConfig = MLPConfig()


class DCN(Recommender):
    """y = w . [x_L1; h_L2] + w0 (eq. 5): a cross network and an MLP side by side on x_0 = [e_1; ...; e_F; dense].

    Fields' dims may differ.
    """

    def __init__(self, fields: Fields, config: DCNConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim), concat=True)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        width = field.width + len(fields.dense)
        self.cross = CrossNetwork(width, config.cross_layers)
        self.mlp = MLP(width, config.mlp, out=None) if config.mlp.hidden else None
        self.output = Logit(width + (self.mlp.width if self.mlp else 0), 1)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, sum of D], [B, N] -> [B]."""
        x = torch.cat([field, dense], 1)
        of_cross, of_deep = self.output.weight[0].tensor_split([x.shape[1]])
        crossed = self.cross.read_by(of_cross, x)
        if self.mlp is None:
            return crossed + self.output.bias
        return crossed + logits(self.mlp(x), of_deep[None], self.output.bias).squeeze(1)
