"""Temporal difference learning fits a value to the reward and the value of what follows (Sutton, 1988)."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.metrics import MetricSet, Predictions, Rows, TemporalDifferences
from shardrec.models.metrics.collective import Collective
from shardrec.models.tasks import Task, Term, at_least_fp32

Loss = Literal["squared", "huber"]


class ActionValues(NamedTuple):
    """A tower that values actions returns this, [B] each.

    value: Q(s, a) of the action that was taken. following: what the next state is worth, 0 where nothing follows;
    without gradient. None: it is not known, as for predictions, or not asked for.
    """

    value: Tensor
    following: Tensor | None = None


class TemporalDifference(Task):
    """The value Q of a logged action is fitted to y = r + discount (1 - terminal) x the value of the next state.

    Loss: the mean of (Q - y)^2, or of Huber's loss of Q - y (half the square up to 1, linear beyond), by sample weight.
    """

    term = "td_loss"

    def __init__(
        self,
        rewards: Mapping[str, float],
        *,
        discount: float,
        terminal: str | None = None,
        candidates: str | None = None,
        loss: Loss = "squared",
    ) -> None:
        """rewards: label -> its weight in r. terminal: a label, 1 where nothing follows; None: something always does.

        candidates: a sequence of the next state's actions, which is not empty in a row that is not terminal.
        """
        self.rewards = dict(rewards)
        self.discount = discount
        self.terminal = terminal
        self.candidates = candidates
        self.row_loss = F.mse_loss if loss == "squared" else F.huber_loss

    def target(self, output: ActionValues, batch: Batch) -> Tensor:
        """Returns y, [B], in the precision of the values but fp32 at least, without gradient."""
        value = at_least_fp32(output.value.detach())
        target = torch.zeros_like(value)
        for label, weight in self.rewards.items():
            target += weight * batch.labels[label].to(value.dtype)
        if output.following is None:
            return target
        following = self.discount * output.following.to(value.dtype)
        return target + following * (1 - batch.labels[self.terminal].to(value.dtype) if self.terminal else 1)

    def loss(self, output: ActionValues, batch: Batch) -> dict[str, Term]:
        """Returns the sum of weight x loss, and of weights, over the rows that are not padding."""
        value, target = at_least_fp32(output.value), self.target(output, batch)
        weight = torch.where(batch.live, batch.weights, 0).to(value.dtype)
        loss = self.row_loss(value, target, reduction="none")
        return {self.term: Term((weight * loss).sum(), weight.sum())}

    def prediction(self, output: ActionValues) -> Tensor:
        """Returns Q(s, a), [B]."""
        return at_least_fp32(output.value)

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes td_error (the mean squared difference to the target), mean_q, mean_target and rows."""

        def read(output: ActionValues, batch: Batch) -> Predictions:
            live, value = batch.live, output.value[batch.live].double()
            target = self.target(output, batch)[live].double()
            return Predictions(score=value, value=value, label=target, weight=batch.weights[live].double())

        return MetricSet([TemporalDifferences(), Rows()], read, collective)

    def check(self, batch: Batch) -> None:
        """Raises UserError, naming the row, for rewards or terminals that cannot be learned from.

        So it does for a row that is not terminal and has no action to go on with.
        """
        if not batch.labels:
            return
        for label in self.rewards:
            reward = batch.labels[label]
            self._refuse(batch, ~reward.isfinite(), reward, f"label {label!r}", "rewards have to be finite")
        if self.terminal is None or self.discount == 0:
            return
        terminal = batch.labels[self.terminal]
        wanted = "terminal is 1 where nothing follows, else 0"
        self._refuse(batch, (terminal != 0) & (terminal != 1), terminal, f"label {self.terminal!r}", wanted)
        if self.candidates is not None:
            lengths = batch.ids[self.candidates].lengths()
            wanted = (
                f"a row with {self.terminal!r} 0 needs the actions that it may go on with; mark it as terminal, or "
                "leave it out"
            )
            self._refuse(batch, (lengths == 0) & (terminal == 0), lengths, f"length of {self.candidates!r}", wanted)

    @staticmethod
    def _refuse(batch: Batch, wrong: Tensor, values: Tensor, what: str, wanted: str) -> None:
        """Raises UserError where any live row is wrong, about the first."""
        wrong = wrong & batch.live
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise UserError(f"{what}: found {float(values[first]):g} in row {int(batch.rows[first])}; {wanted}")

    def broken_rows(self, output: ActionValues, batch: Batch) -> Tensor:
        """Returns [B] bool: live rows whose weighted loss is not finite."""
        loss = self.row_loss(at_least_fp32(output.value.detach()), self.target(output, batch), reduction="none")
        return ~(loss * batch.weights).isfinite() & batch.live
