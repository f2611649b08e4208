"""SimpleX blends a user's own vector with the mean of the items in the history (Mao et al., CIKM 2021)."""

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from shardrec.models.fields import Fields
from shardrec.models.history_towers import HistoryTowers, HistoryTowersConfig, mean_of
from shardrec.models.inputs import Jagged, Padded, PooledEmbeddings
from shardrec.models.layers.logit import Logit
from shardrec.models.retrieval import RetrievalLoss
from shardrec.models.shared_space import Vectors
from shardrec.models.user_item import feature_of


class SimpleXConfig(HistoryTowersConfig):
    """`simplex` has these settings of its own; its loss is `ccl` unless another is named."""

    user: str | None = Field(default=None, description="id feature; None: the schema's first of role user")
    gate: float = Field(default=0.5, ge=0, le=1, description="g: the share of the user's own vector")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of users' vectors")

    def build_any_task(self, schema: Any) -> Any:
        """Returns the task, whose loss is the paper's where none is named."""
        if self.loss is None and self.task == "retrieval":
            return self.model_copy(update={"loss": RetrievalLoss(name="ccl")}).build_any_task(schema)
        return super().build_any_task(schema)


class SimpleX(HistoryTowers):
    """f(u) = g e_u + (1 - g) V p_u (eq. 4), p_u the mean of the vectors of the history's items; dropout on f(u)."""

    def __init__(self, fields: Fields, config: SimpleXConfig) -> None:
        table = fields.table(user := feature_of(fields, "user", config.user), embedding_dim=config.embedding_dim)
        super().__init__(fields, config, user=PooledEmbeddings({user: table}, concat=True))
        self.gate = config.gate
        self.of_items = Logit(self.dim, table.embedding_dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, history: Jagged | Padded, item: Tensor, user: Tensor) -> Tensor | Vectors:
        """[T, 1, D], [B, D], [B, D] -> [B]."""
        return self.scored(history=history, item=item, user=user)

    def of_user(self, history: Jagged | Padded, user: Tensor) -> Tensor:
        """Returns f(u): [T, 1, D], [B, D] -> [B, D]."""
        return self.dropout(self.gate * user + (1 - self.gate) * self.of_items(mean_of(history)))
