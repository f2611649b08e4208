"""A pooled history is what DIN is measured against: events count alike, whatever the target."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig, HistoryModel
from shardrec.models.inputs import Jagged
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.padded import padded_mean_weights, padded_sum


class PooledHistoryConfig(HistoryConfig):
    """`pooled_history` has these settings of its own."""

    pooling: Literal["mean", "sum"] = Field(default="mean", description="what becomes of the events' vectors")


class PooledHistory(HistoryModel):
    """The interest is the mean, or the sum, of the events' vectors (Zhou et al., KDD 2018, section 4.2, BaseModel).

    An empty history's interest is zero. All but the interest is as in `DIN`.
    """

    def __init__(self, fields: Fields, config: PooledHistoryConfig) -> None:
        super().__init__(fields, config)
        self.pooling = config.pooling
        self.mlp = self.mlp_over(self.event_width, config.mlp)

    def forward(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, F, D], [T, F, D], [B, N], [B, sum of D] -> [B]."""
        events = self.events(history)
        row = history.row_of_position()
        weights = events.new_ones(len(events))
        if self.pooling == "mean":
            weights = weights / history.lengths[row]
        return self.score(jagged_sum(events, weights, row, history.offsets), target, dense, context)

    def padded_interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """[B, L, E], [B, E], [B, L] -> [B, E]."""
        is_mean = self.pooling == "mean"
        return padded_sum(events, padded_mean_weights(live, events.dtype) if is_mean else live.to(events.dtype))
