"""YoutubeDNN makes a user's vector of the mean of the history and of features (Covington et al., RecSys 2016)."""

import torch
from pydantic import Field
from torch import Tensor

from shardrec.models.fields import Fields
from shardrec.models.history_towers import HistoryTowers, HistoryTowersConfig, mean_of, side_tables
from shardrec.models.inputs import DenseFeatures, Input, Jagged, Padded, PooledEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.shared_space import Vectors


class YoutubeDNNConfig(HistoryTowersConfig):
    """`youtube_dnn` has these settings of its own."""

    user: tuple[str, ...] | None = Field(
        default=None, description="names or patterns of id and id_list features beside the history; None: of role user"
    )
    mlp: MLPConfig = Field(default=MLPConfig(hidden=(256, 128)), description="over [history; user; dense]")


class YoutubeDNN(HistoryTowers):
    """f(u) = MLP([mean of the history; the user's features; dense features of role user]), v_i the item's row."""

    def __init__(self, fields: Fields, config: YoutubeDNNConfig) -> None:
        tables = side_tables(fields, config.user, config.embedding_dim)
        dense = tuple(name for name in fields.dense if fields.schema[name].role == "user")
        given: dict[str, Input] = {"dense": DenseFeatures(dense)} if dense else {}
        if tables:
            given["user"] = PooledEmbeddings(tables, concat=True)
        super().__init__(fields, config, **given)
        width = sum(table.embedding_dim for table in tables.values()) + len(dense)
        self.mlp = MLP(self.dim + width, config.mlp, out=self.dim)

    def forward(
        self, history: Jagged | Padded, item: Tensor, user: Tensor | None = None, dense: Tensor | None = None
    ) -> Tensor | Vectors:
        """[T, 1, D], [B, D], [B, sum of D], [B, N] -> [B]."""
        more = {name: value for name, value in (("user", user), ("dense", dense)) if value is not None}
        return self.scored(history=history, item=item, **more)

    def of_user(self, history: Jagged | Padded, user: Tensor | None = None, dense: Tensor | None = None) -> Tensor:
        """Returns f(u): [T, 1, D], [B, sum of D], [B, N] -> [B, D]."""
        return self.mlp(torch.cat([x for x in (mean_of(history), user, dense) if x is not None], 1))
