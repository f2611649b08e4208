"""Predicted values are set beside the numbers that they are to be: by bins of the prediction, and in histograms."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.binned_curves import CALIBRATION_BINS, HISTOGRAM_BINS, columns_of, ends
from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.curves import CalibrationBins
from shardrec.models.metrics.gathered_table import GatheredTable
from shardrec.models.metrics.metric import Columns, Metric
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.score_table import ScoreTable, sums_at

CAPACITY = 1 << 17
"""Distinct numbers that pictures are made of: beyond, neighbours are merged that differ by some ten-thousandths."""
FEW_LABELS = range(3, 21)
"""So many distinct labels, such as the stars of ratings, have a bin of the histogram each."""


class ValueHistogram(NamedTuple):
    """A value histogram counts the weight of rows in N bins by their predictions and by their labels, float64.

    edges: [N + 1]; the outermost bins also hold what lies beyond them. predictions, labels: [N].
    """

    edges: Tensor
    predictions: Tensor
    labels: Tensor

    @classmethod
    def of(cls, predictions: ScoreTable, labels: ScoreTable) -> "ValueHistogram":
        """Returns the histogram between the ends of both; each of a few labels is in the middle of a bin."""
        distinct = labels.scores
        if len(distinct) in FEW_LABELS:
            middles = (distinct[1:] + distinct[:-1]) / 2
            edges = torch.cat([2 * distinct[:1] - middles[:1], middles, 2 * distinct[-1:] - middles[-1:]])
        else:
            edges = _edges([predictions, labels])
        return cls(edges, *(_binned(table, edges) for table in (predictions, labels)))


class ErrorHistogram(NamedTuple):
    """An error histogram counts the weight of rows in N bins by prediction less label; as `ValueHistogram`."""

    edges: Tensor
    weight: Tensor

    @classmethod
    def of(cls, errors: ScoreTable) -> "ErrorHistogram":
        """Returns the histogram between the errors that `TAIL` of the weight lie beyond."""
        edges = _edges([errors])
        return cls(edges, _binned(errors, edges))


class PredictedValues(Metric):
    """Predicted values have pictures, and no number: those are of other metrics."""

    larger_is_better: ClassVar = {}

    def __init__(self) -> None:
        self._predictions, self._labels, self._errors = (GatheredTable(CAPACITY) for _ in range(3))

    def update(self, rows: Predictions) -> None:
        """Takes in a batch's rows."""
        nothing = torch.zeros_like(rows.label)
        self._predictions.add(rows.value, rows.label, rows.weight)
        self._labels.add(rows.label, nothing, rows.weight)
        self._errors.add(rows.value - rows.label, nothing, rows.weight)

    def compute(self, collective: Collective) -> dict[str, float]:
        """Returns nothing."""
        return {}

    def binned_curves(self, collective: Collective) -> dict[str, Columns] | None:
        """Returns `calibration`, `values` and `errors`; None where a prediction is not finite, or no row counts."""
        tables = [t.with_weight(collective) for t in (self._predictions, self._labels, self._errors)]
        if any(table is None or not table.scores.isfinite().all() for table in tables):
            return None
        predictions, labels, errors = (table for table in tables if table is not None)
        return {
            "calibration": columns_of(CalibrationBins.of(predictions, CALIBRATION_BINS, logits=False)),
            "values": columns_of(ValueHistogram.of(predictions, labels)),
            "errors": columns_of(ErrorHistogram.of(errors)),
        }


def _edges(tables: list[ScoreTable]) -> Tensor:
    """Returns the edges of bins of equal width, between the numbers that `TAIL` of the tables' weight lie beyond."""
    found = torch.tensor([ends(table.scores, table.weight) for table in tables], dtype=torch.float64)
    low, high = float(found[:, 0].min()), float(found[:, 1].max())
    if high <= low:  # one number for nearly all rows
        space = abs(low) * 0.05 or 1.0
        low, high = low - space, high + space
    return torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64, device=tables[0].keys.device)


def _binned(table: ScoreTable, edges: Tensor) -> Tensor:
    place = torch.bucketize(table.scores, edges[1:-1], right=True)
    return sums_at(place, table.weight, len(edges) - 1)
