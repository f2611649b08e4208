"""Binned curves are a score table in a few hundred numbers, which is what a picture of it needs.

They are ROC and precision-recall points, calibration by bins, and a histogram of the predictions of either class.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.curves import CalibrationBins, OperatingPoints
from shardrec.models.metrics.metric import Columns
from shardrec.models.metrics.score_table import ScoreTable, sums_at

POINTS = 400
CALIBRATION_BINS = 20
HISTOGRAM_BINS = 40
TAIL = 0.001
"""The share of the weight on either side whose predictions the outermost bins of a histogram may take in."""
DIGITS = 5


class ScoreHistogram(NamedTuple):
    """A score histogram counts the weight of both classes in N bins of equal width of the prediction, float64.

    edges: [N + 1]; the outermost bins also hold what lies beyond them. positives, negatives: [N].
    """

    edges: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def of(cls, table: ScoreTable, bins: int = HISTOGRAM_BINS) -> "ScoreHistogram":
        """Returns the histogram of scores that are logits, between those that `TAIL` of the weight lie beyond."""
        prediction = torch.sigmoid(table.scores)
        low, high = ends(prediction, table.weight)
        if high <= low:  # one prediction for nearly all rows
            low, high = max(0.0, low - 0.01), min(1.0, high + 0.01)
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64, device=prediction.device)
        place = torch.bucketize(prediction, edges[1:-1], right=True)
        return cls(edges, sums_at(place, table.positives, bins), sums_at(place, table.negatives, bins))


def binned_curves(table: ScoreTable) -> dict[str, Columns]:
    """Returns `points`, `calibration` and `histogram` of a table that has weight, as columns of rounded numbers."""
    parts: dict[str, NamedTuple] = {
        "points": OperatingPoints.of(table).thinned(POINTS),
        "calibration": CalibrationBins.of(table, CALIBRATION_BINS),
        "histogram": ScoreHistogram.of(table),
    }
    return {name: columns_of(part) for name, part in parts.items()}


def columns_of(part: NamedTuple) -> Columns:
    """Returns the columns of a part but for its scores, rounded."""
    return {name: _rounded(column) for name, column in part._asdict().items() if name != "score"}


def ends(values: Tensor, weight: Tensor) -> tuple[float, float]:
    """Returns those of ascending values that `TAIL` of the weight lie beyond, on either side."""
    share = weight.cumsum(0) / weight.sum()
    last = min(int((share < 1 - TAIL).sum()), len(values) - 1)
    return float(values[int((share < TAIL).sum())]), float(values[last])


def _rounded(values: Tensor) -> list[float | None]:
    numbers: list[float] = values.tolist()
    return [float(f"{x:.{DIGITS}g}") if x - x == 0 else None for x in numbers]
