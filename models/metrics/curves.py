"""Curves are read off a score table: operating points (ROC, precision and recall), and calibration by bins."""

from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.score_table import ScoreTable, sums_at

MOST_POINTS = 10_000
BINS = 10


class OperatingPoints(NamedTuple):
    """Operating points say what comes of calling rows positive from a score on: K of them, float64, strictest first.

    The first has the score infinity, from which on no row is called positive: rates of 0, and a precision of 1. True
    positive rates, which are recalls, are NaN without positives, and false positive rates without negatives.
    """

    score: Tensor
    true_positive_rate: Tensor
    false_positive_rate: Tensor
    precision: Tensor

    @classmethod
    def of(cls, table: ScoreTable) -> "OperatingPoints":
        """Returns a point for each score that has weight; of merged scores one, the exact point of their least."""
        true, false = table.positives.flip(0).cumsum(0), table.negatives.flip(0).cumsum(0)
        return cls(
            _from(torch.inf, table.scores.flip(0)),
            _from(0, true / true[-1:]),
            _from(0, false / false[-1:]),
            _from(1, true / (true + false)),
        )

    def thinned(self, most: int = MOST_POINTS) -> "OperatingPoints":
        """Returns `most` of the points at most, the ends among them; all where there are no more.

        Each one left out has rates within 3 / (most - 4) of those of the next one kept, and its precision within that
        share of the way that precision goes up and down in all.
        """
        if self.score.numel() <= most:
            return self
        cells = (most - 2) // 3
        keep = torch.zeros_like(self.score, dtype=torch.bool)
        keep[[0, -1]] = True
        for measure in self[1:]:
            way = measure.nan_to_num().diff(prepend=measure[:1]).nan_to_num().abs().cumsum(0)
            cell = (way / way[-1:] * cells).nan_to_num().floor()
            keep[:-1] |= cell[1:] != cell[:-1]  # the last of each cell
        return OperatingPoints(*(column[keep] for column in self))


class CalibrationBins(NamedTuple):
    """Calibration bins set the labels of rows beside their predictions: N bins of about equal weight, float64.

    prediction_mean, label_mean: of a bin's rows, by weight; weight: of them together. Equal scores are in one bin, so
    that there are fewer bins where many are equal.
    """

    prediction_mean: Tensor
    label_mean: Tensor
    weight: Tensor

    @classmethod
    def of(cls, table: ScoreTable, bins: int = BINS, *, logits: bool = True) -> "CalibrationBins":
        """Returns the bins of scores, predictions ascending; merged scores count as their least.

        logits: whether the scores are such; else they are the predictions.
        """
        weight = table.weight
        middle = weight.cumsum(0) - weight / 2
        _, place = torch.unique((middle / weight.sum() * bins).floor(), return_inverse=True)
        prediction = torch.sigmoid(table.scores) if logits else table.scores
        size = int(place.max()) + 1
        weights, predicted, positive = (
            sums_at(place, column, size) for column in (weight, weight * prediction, table.positives)
        )
        return cls(predicted / weights, positive / weights, weights)


def _from(start: float, points: Tensor) -> Tensor:
    return torch.cat([points.new_tensor([start]), points])
