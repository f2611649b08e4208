"""Estimators say what a policy would have earned a row, from rows that another policy was shown in.

With w = pi(a | x) / p, the policy's probability of what was shown by that of the log (Dudik, Langford & Li 2011;
Swaminathan & Joachims 2015; Li, Chu, Langford & Wang 2011):

    ips             mean of w r
    snips           sum of w r / sum of w
    direct          mean of v,                  v = sum over a of pi(a | x) q(x, a)
    doubly_robust   mean of v + w (r - q(x, a))
    replay          mean of r over rows whose action the policy would show; logs of uniform choices only
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

from shardrec.trainer.off_policy.intervals import Floats, Ratio

EstimatorName = Literal["replay", "ips", "snips", "direct", "doubly_robust"]
ESTIMATORS: tuple[EstimatorName, ...] = get_args(EstimatorName)
LOGGED = "logged"
"""The mean reward of the log itself, which stands beside the estimates."""

_EVEN = 1e-4  # by which a propensity may be off 1 / number of candidates, relative to it


class Weighed(NamedTuple):
    """Weighed rows are a log's under the policy that is judged; [n] each.

    reward: of what was shown; propensity: the log's probability of showing it; probability: the policy's
    predicted: the reward model's q(x, a) of what was shown; expected: its mean under the policy, v
    candidates: of how many the log chose
    """

    reward: Floats
    propensity: Floats
    probability: Floats
    predicted: Floats
    expected: Floats
    candidates: np.ndarray

    @property
    def weight(self) -> Floats:
        """Returns [n]: how much likelier the policy shows what was shown than the log did."""
        return self.probability / self.propensity


def ratios(rows: Weighed) -> dict[str, Ratio]:
    """Returns the log's own mean reward and every estimator as a ratio of sums over rows."""
    ones, weight = np.ones_like(rows.reward), rows.weight
    return {
        LOGGED: Ratio(rows.reward, ones),
        "replay": Ratio(rows.probability * rows.reward, rows.probability),
        "ips": Ratio(weight * rows.reward, ones),
        "snips": Ratio(weight * rows.reward, weight),
        "direct": Ratio(rows.expected, ones),
        "doubly_robust": Ratio(rows.expected + weight * (rows.reward - rows.predicted), ones),
    }


def why_no_replay(rows: Weighed) -> str | None:
    """Says why rows are not a log of uniform choices among equally many candidates; None where they are."""
    if (rows.candidates != rows.candidates[0]).any():
        return f"rows have {rows.candidates.min()} to {rows.candidates.max()} candidates, and it weighs them by that"
    even = 1 / rows.candidates[0]
    off = np.abs(rows.propensity - even)
    at = int(off.argmax())
    if off[at] <= _EVEN * even:
        return None
    return (
        f"the log is not uniform: propensities go from {rows.propensity.min():.3g} to {rows.propensity.max():.3g} "
        f"where each of {rows.candidates[0]} candidates would have {even:.3g}"
    )
