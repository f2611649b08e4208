"""A reward model says what an action would have earned: here, from what the log's other rows earned with it.

A row's prediction must not know the row's own reward. So rows are dealt to folds, all of a group to one, and a row of a
fold is predicted from the other folds (Chernozhukov et al. 2018: cross-fitting).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardrec.trainer.off_policy.intervals import Floats

Codes = NDArray[np.int64]

FOLDS = 5
PRIOR_ROWS = 10.0
"""An action's mean is drawn towards its position's as by so many rows of that mean."""


@dataclass(frozen=True)
class MeanRewards:
    """Mean rewards are by fold, position and action: of all rows of other folds, [folds, positions, actions + 1].

    The last action stands for those that the log never shows: their mean is the position's.
    """

    means: Floats

    @classmethod
    def fit(cls, reward: Floats, position: Codes, action: Codes, fold: Codes) -> "MeanRewards":
        """Fits codes 0, 1, ... of positions and actions, [n] each, to rewards."""
        positions, actions = int(position.max()) + 1, int(action.max()) + 1
        shape = (FOLDS, positions, actions + 1)
        cell = np.ravel_multi_index((fold, position, action), shape)
        rows, sums = (np.bincount(cell, weights, np.prod(shape)).reshape(shape) for weights in (None, reward))
        rows, sums = rows.sum(0) - rows, sums.sum(0) - sums
        overall = sums.sum((1, 2), keepdims=True) / np.maximum(rows.sum((1, 2), keepdims=True), 1)
        of_position = _towards(overall, sums.sum(2, keepdims=True), rows.sum(2, keepdims=True))
        return cls(_towards(of_position, sums, rows))

    def __call__(self, fold: Codes, position: Codes, action: Codes) -> Floats:
        """Returns predictions of actions' codes, -1 for one that the log never shows: [n] each -> [n]."""
        return self.means[fold, position, action]


def folds(group: Codes | None, rows: int) -> Codes:
    """Returns [rows] folds, of even size: rows are dealt by chance, or else groups are, all rows of one to one fold.

    Not in turn: in a log of lists of 5, the rows of a fold would be those of one place in the list.
    """
    count = rows if group is None else int(group.max()) + 1
    dealt = np.random.default_rng(0).permutation(count) % FOLDS
    return dealt if group is None else dealt[group]


def _towards(prior: Floats, sums: Floats, rows: Floats) -> Floats:
    mean: Floats = (sums + PRIOR_ROWS * prior) / (rows + PRIOR_ROWS)
    return mean
