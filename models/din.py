"""DIN weights past events by how much they bear on the target (Zhou et al., KDD 2018)."""

from pydantic import Field
from torch import Tensor

from shardrec.models.base import Explanation
from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig, HistoryModel
from shardrec.models.inputs import Jagged
from shardrec.models.layers.activation_unit import ActivationUnit, Interaction
from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.jagged_softmax import jagged_softmax
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.layers.padded import padded_softmax, padded_sum


class DINConfig(HistoryConfig):
    """`din` has these settings of its own."""

    attention: MLPConfig = Field(
        default=MLPConfig(hidden=(64, 16), activation="dice"), description="hidden layers of the activation unit"
    )
    interaction: Interaction = Field(
        default="difference_product", description="what the unit sees beside event and target: e - v, e * v; or e v^T"
    )
    softmax: bool = Field(default=False, description="weights of a row sum to 1; the paper's do not")


class DIN(HistoryModel):
    """The interest is v_U(A) = sum_j a(e_j, v_A) e_j (eq. 3), weights as the unit gives them, or their softmax.

    Without softmax their sum tells how strong the interest is. An empty history's interest is zero. All is computed on
    the T events that there are; their order does not matter.
    """

    def __init__(self, fields: Fields, config: DINConfig) -> None:
        super().__init__(fields, config)
        self.softmax = config.softmax
        self.mlp = self.mlp_over(self.event_width, config.mlp)
        self.attention = ActivationUnit(self.event_width, config.attention, config.interaction)
        if config.softmax:
            unit = self.attention.mlp.layers[-1]
            assert isinstance(unit, Logit)
            keep_at_zero(unit.bias)

    def forward(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, F, D], [T, F, D], [B, N], [B, sum of D] -> [B]."""
        row, events = history.row_of_position(), self.events(history)
        weights = self._weights(events, self.target_event(target, dense), history, row)
        return self.score(jagged_sum(events, weights, row, history.offsets), target, dense, context)

    def _weights(self, events: Tensor, target: Tensor, history: Jagged, row: Tensor) -> Tensor:
        """Returns a(e_j, v_A), [T], of events [T, E] and targets [B, E], in the events' precision."""
        weights = self.attention(events, target, row, history.offsets).to(events.dtype)
        return jagged_softmax(weights, row, history.lengths, history.offsets) if self.softmax else weights

    def padded_interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """[B, L, E], [B, E], [B, L] -> [B, E]."""
        weights = self.attention.padded(events, target)
        weights = padded_softmax(weights, live) if self.softmax else weights.masked_fill(~live, 0)
        return padded_sum(events, weights)

    def explain(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Explanation:
        """Returns each event's weight."""
        row = history.row_of_position()
        weights = self._weights(self.events(history), self.target_event(target, dense), history, row)
        return Explanation(history._replace(values=weights), self.sequences[:1])
