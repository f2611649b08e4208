"""Isotonic regression is the non-descending map of predictions that is nearest to their labels: pooled violators."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WORTH_A_ROUND = 0.9
"""While a round over all blocks leaves fewer than this share of them, rounds are faster than a loop."""


def fit_isotonic(predictions: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """Returns points (x, y) of the map, x ascending and y not descending: the ends of each constant piece.

    Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    predictions, labels (0 to 1), weights (positive, of mean 1): [n]. The first piece may have no positives and the last
    no negatives, of which 0 and 1 would say that others never come: a piece of weight W says 0.5 / (W + 1), or that
    less than 1, which is what rows are expected of under Jeffreys' prior.
    """
    x, place = np.unique(predictions, return_inverse=True)
    weight = np.bincount(place, weights).astype(np.float64)
    starts, mean = _pooled(np.bincount(place, weights * labels).astype(np.float64), weight)
    total = np.add.reduceat(weight, starts)
    if mean[0] <= 0:
        mean[0] = min(0.5 / (total[0] + 1), *mean[1:2], 0.5)
    if mean[-1] >= 1:
        mean[-1] = max(1 - 0.5 / (total[-1] + 1), *mean[-2:-1], 0.5)
    ends = np.append(starts[1:], len(x)) - 1
    at = np.unique(np.concatenate([starts, ends]))
    return x[at], mean[np.searchsorted(starts, at, side="right") - 1]


def _pooled(positive: Array, weight: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns the first index and the mean of blocks whose means ascend, of neighbours pooled until they do.

    All of a run of descending means is one block in the end, so that it is pooled at once.
    """
    starts = np.arange(len(weight))
    while len(starts) > 1:
        mean = positive / weight
        begins = np.append(True, mean[1:] > mean[:-1])
        if begins.all():
            return starts, mean
        first = np.flatnonzero(begins)
        few = len(first) > WORTH_A_ROUND * len(starts)
        positive, weight, starts = np.add.reduceat(positive, first), np.add.reduceat(weight, first), starts[first]
        if few:
            break
    return _pooled_by_loop(positive, weight, starts)


def _pooled_by_loop(positive: Array, weight: Array, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Does the same in one pass, block by block: where little is pooled, and rounds would be many."""
    blocks: list[tuple[int, float, float]] = []
    for start, p, w in zip(starts.tolist(), positive.tolist(), weight.tolist(), strict=True):
        while blocks and blocks[-1][1] * w >= p * blocks[-1][2]:
            start, p, w = blocks[-1][0], blocks[-1][1] + p, blocks[-1][2] + w
            blocks.pop()
        blocks.append((start, p, w))
    return np.array([start for start, _, _ in blocks]), np.array([p / w for _, p, w in blocks])
