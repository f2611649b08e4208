"""Differences between models that scored the same rows get intervals over whose rows these are.

Users are drawn with replacement, all their rows with them, the same users for every model (a paired bootstrap: Efron &
Tibshirani 1993, chapter 8); what all models find hard cancels out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An interval is a difference and the middle 95 % of its values over the draws."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Says whether 0 lies outside."""
        return self.low > 0 or self.high < 0


class Judged:
    """Judged rows are those on which models are compared.

    label: [n], positive where > 0; group: [n] numbers or strings, whose row each is; weight: [n] of samples. A model is
    given by one [n] array of scores for each run (seed); its metric is the mean over its runs.
    """

    def __init__(self, label: NDArray[np.generic], group: NDArray[np.generic], weight: Floats | None = None) -> None:
        self.positive: NDArray[np.bool_] = label.astype(np.float64) > 0
        self.weight = np.ones(len(label)) if weight is None else weight.astype(np.float64)
        _, self.group = np.unique(group, return_inverse=True)
        self.groups = int(self.group.max()) + 1 if len(group) else 0

    def differences(
        self, model: Sequence[Floats], base: Sequence[Floats], *, draws: int = 1000, seed: int = 0
    ) -> dict[str, Interval]:
        """Returns `auc` of `model` less that of `base`, and `gauc`: of those, what the rows define.

        Rows of one class have no `auc`, and groups of one class each no `gauc`.
        """
        rng = np.random.default_rng(seed)
        first, second = (np.mean([self._group_auc(scores) for scores in runs], 0) for runs in (model, base))
        rows = np.bincount(self.group, self.weight, self.groups) * np.isfinite(first)
        ahead = np.nan_to_num(first - second) * rows
        ranked = [[_Ranked(scores, self.positive) for scores in runs] for runs in (model, base)]

        def metrics_of(drawn: NDArray[np.int64]) -> tuple[float, float]:
            weight = drawn[self.group] * self.weight
            ours, theirs = (np.mean([one.auc(weight) for one in runs]) for runs in ranked)
            counted = drawn @ rows
            return float(ours - theirs), float(drawn @ ahead / counted) if counted else np.nan

        metrics = {0: "auc"} if len(np.unique(self.positive[self.weight > 0])) == 2 else {}
        if rows.any():
            metrics[1] = "gauc"
        if not metrics:
            return {}
        everyone = metrics_of(np.ones(self.groups, np.int64))
        drawn = [
            metrics_of(np.bincount(rng.integers(self.groups, size=self.groups), minlength=self.groups))
            for _ in range(draws)
        ]
        middle = {name: np.nanpercentile([one[i] for one in drawn], [2.5, 97.5]) for i, name in metrics.items()}
        return {name: Interval(everyone[i], *map(float, middle[name])) for i, name in metrics.items()}

    def _group_auc(self, scores: Floats) -> Floats:
        """Returns each group's AUC [groups], NaN for those of one class; ties count half."""
        order = np.lexsort((scores, self.group))
        group, score, positive, weight = (x[order] for x in (self.group, scores, self.positive, self.weight))
        fresh = np.r_[True, (group[1:] != group[:-1]) | (score[1:] != score[:-1])]
        starts = np.flatnonzero(fresh)
        of_tie = group[starts]
        positives, negatives = (
            np.add.reduceat(weight * which, starts) for which in (positive, np.logical_not(positive))
        )
        below = np.cumsum(negatives) - negatives
        first = np.searchsorted(of_tie, np.arange(self.groups))
        below -= below[first][of_tie]
        sums = [np.bincount(of_tie, part, self.groups) for part in (positives * (below + negatives / 2), positives)]
        pairs = sums[1] * np.bincount(of_tie, negatives, self.groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(pairs > 0, sums[0] / pairs, np.nan)


class _Ranked:
    """Ranked scores are sorted once, for AUCs under many weights."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self.order = np.argsort(scores, kind="stable")
        ranked = scores[self.order]
        self.starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        self.positive = positive[self.order].astype(np.float64)

    def auc(self, weight: Floats) -> float:
        """Returns the AUC of weighted rows; NaN where they are of one class."""
        weight = weight[self.order]
        positives = np.add.reduceat(weight * self.positive, self.starts)
        negatives = np.add.reduceat(weight * (1 - self.positive), self.starts)
        wins = positives @ (np.cumsum(negatives) - negatives / 2)
        pairs = positives.sum() * negatives.sum()
        return float(wins / pairs) if pairs else np.nan
