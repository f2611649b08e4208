"""Weights say how far an estimate can be trusted: how many rows it rests on, and what it cannot see."""

from dataclasses import asdict, dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from shardrec.trainer.off_policy.estimators import Weighed
from shardrec.trainer.off_policy.intervals import Floats, Ratio, Resampling, estimates

FEW_ROWS = 100
FEW_REWARDS = 10
FEW_GROUPS = 20
LARGE_SHARE = 0.1
UNSEEN_SHARE = 0.01
_SURE = 0.999  # of the mean weight: a warning that comes once in a thousand sound logs


@dataclass(frozen=True)
class WeightFacts:
    """Weight facts are of a policy's weights on a log.

    effective_rows: (sum w)^2 / sum w^2, so many rows of equal weight tell as much
    rewarded_rows: the same of the rows with a reward
    largest, mean: of the weights; largest_share: of all weight, what the largest one has
    unseen: mean probability of candidates that the log never shows, whose rewards nothing tells
    """

    rows: int
    effective_rows: float
    rewarded_rows: float
    largest: float
    largest_share: float
    mean: float
    mean_low: float
    mean_high: float
    unseen: float

    @classmethod
    def of(cls, rows: Weighed, unseen: float, group: NDArray[np.int64] | None = None) -> "WeightFacts":
        """Computes them; group: as for `estimates`."""
        weight = rows.weight
        how = Resampling(confidence=_SURE, resamples=1)
        mean = estimates({"mean": Ratio(weight, np.ones_like(weight))}, group, how)["mean"]
        total = float(weight.sum())
        return cls(
            rows=len(weight),
            effective_rows=_effective(weight),
            rewarded_rows=_effective(weight * np.abs(rows.reward)),
            largest=float(weight.max()),
            largest_share=float(weight.max() / total) if total else 0.0,
            mean=mean.value,
            mean_low=mean.normal_low,
            mean_high=mean.normal_high,
            unseen=unseen,
        )

    def as_json(self) -> dict[str, float | None]:
        """Returns the facts by name; None where rows define none."""
        return {name: None if isnan(value) else value for name, value in asdict(self).items()}

    def warnings(self) -> list[str]:
        """Returns a line for each thing that makes the estimates worthless, or suspect."""
        lines = []
        if self.effective_rows < FEW_ROWS:
            lines.append(
                f"the weights are worth {self.effective_rows:,.1f} rows of {self.rows:,}: estimates that weigh rows "
                "are worthless; take more rows, or a policy nearer to the log's"
            )
        elif self.largest_share > LARGE_SHARE:
            lines.append(f"one row has {self.largest_share:.0%} of all weight: the estimates rest on it")
        if self.rewarded_rows < FEW_REWARDS <= self.effective_rows:
            lines.append(
                f"rewards are worth those of {self.rewarded_rows:,.1f} rows: intervals are too narrow, and estimates "
                "that weigh rows are worthless; take more rows"
            )
        if self.unseen > UNSEEN_SHARE:
            lines.append(
                f"{self.unseen:.1%} of the policy's choices are actions that the log never shows: nothing tells their "
                "rewards, and ips counts them as 0"
            )
        if self.mean_low > 1 or self.mean_high < 1:
            lines.append(
                f"the mean weight is {self.mean:.3g} and should be 1 ({self.mean_low:.3g} to {self.mean_high:.3g} at "
                f"{_SURE:.1%}): the log does not show all that the policy would, or these propensities are not "
                "those that it was made with"
            )
        return lines


def _effective(weight: Floats) -> float:
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0
