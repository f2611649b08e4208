"""Estimates that are ratios of sums over rows get intervals: percentiles of a bootstrap, and normal ones.

Rows are drawn with replacement; where rows have a group (a user), groups are, all their rows with them (Efron &
Tibshirani 1993, chapters 8 and 13). Normal intervals are the delta method's, from the same groups.
"""

from collections.abc import Mapping
from math import nan
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWN_AT_ONCE = 1 << 20  # rows of all resamples in hand


class Ratio(NamedTuple):
    """A ratio is an estimate: the sum of one number of each row by that of another. [n] float64 each."""

    numerator: Floats
    denominator: Floats


class Estimate(NamedTuple):
    """An estimate has a value, the bootstrap's interval and the normal one; all NaN where rows define none.

    One row, or rows of one group, say nothing of how far chance may have taken the value: there is no interval.
    """

    value: float
    low: float
    high: float
    normal_low: float
    normal_high: float

    def contains(self, value: float) -> bool:
        """Says whether a value is in the bootstrap's interval."""
        return self.low <= value <= self.high


UNDEFINED = Estimate(nan, nan, nan, nan, nan)


class Resampling(NamedTuple):
    """A resampling says how intervals are made.

    confidence: the share of them that is to hold the true value; resamples: how often rows are drawn
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0


def estimates(
    ratios: Mapping[str, Ratio], group: NDArray[np.int64] | None = None, how: Resampling | None = None
) -> dict[str, Estimate]:
    """Returns the estimates of ratios of the same rows, all from the same draws.

    group: [n] codes 0, 1, ... of what is drawn; None: each row is
    """
    how = how or Resampling()
    names = [name for name, ratio in ratios.items() if ratio.denominator.sum() != 0]
    result = dict.fromkeys(ratios, UNDEFINED)
    if not names:
        return result
    columns = [column for name in names for column in ratios[name]]
    if group is not None:
        columns = [np.bincount(group, column).astype(np.float64) for column in columns]
    sums = np.stack(columns, axis=1)
    value = _divided(sums.sum(0))
    spread = NormalDist().inv_cdf((1 + how.confidence) / 2) * _standard_errors(sums, value)
    if len(sums) == 1:
        return result | {name: Estimate(float(value[i]), *UNDEFINED[1:]) for i, name in enumerate(names)}
    tail = 50 * (1 - how.confidence)
    drawn = _divided(_drawn_sums(sums, how))
    for i, name in enumerate(names):
        low, high = np.percentile(drawn[np.isfinite(drawn[:, i]), i], [tail, 100 - tail])
        result[name] = Estimate(*map(float, (value[i], low, high, value[i] - spread[i], value[i] + spread[i])))
    return result


def _divided(sums: Floats) -> Floats:
    """Returns [..., ratios] of [..., 2 x ratios]; NaN where a denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1::2] == 0, nan, sums[..., ::2] / sums[..., 1::2])


def _standard_errors(sums: Floats, value: Floats) -> Floats:
    """Returns [ratios]: the delta method's, by the sums of each group."""
    residual = sums[:, ::2] - value * sums[:, 1::2]
    groups = len(sums)
    scale = groups / max(groups - 1, 1)
    return np.sqrt(scale * (residual**2).sum(0)) / np.abs(sums[:, 1::2].sum(0))


def _drawn_sums(sums: Floats, how: Resampling) -> Floats:
    """Returns [resamples, columns]: the sums over as many groups as there are, drawn with replacement."""
    rng, groups = np.random.default_rng(how.seed), len(sums)
    at_once = max(1, _DRAWN_AT_ONCE // groups)
    parts = []
    for first in range(0, how.resamples, at_once):
        count = min(at_once, how.resamples - first)
        drawn = rng.integers(groups, size=(count, groups), dtype=np.int32 if groups < 2**31 else np.int64)
        times = np.empty((count, groups))  # float64, which the product below is fast with
        for one, into in zip(drawn, times, strict=True):
            into[:] = np.bincount(one, minlength=groups)
        parts.append(times @ sums)
    return np.concatenate(parts)
