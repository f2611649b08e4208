"""Ranking metrics (AUC, average precision) and curves are read off one table of scores (`gathered_table.py`)."""

from typing import ClassVar

from torch import Tensor

from shardrec.models.metrics.averages import lacking, ratio
from shardrec.models.metrics.binned_curves import binned_curves
from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.curves import CalibrationBins, OperatingPoints
from shardrec.models.metrics.gathered_table import GatheredTable
from shardrec.models.metrics.metric import Columns, Metric
from shardrec.models.metrics.ordered_bits import NAN_SCORES
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.score_table import ScoreTable
from shardrec.models.undefined import Undefined


class Ranking(Metric):
    """`auc` and `average_precision` rank rows of two classes; `auc_error_bound` is there once scores had to be merged.

    A weighted pair of rows of different class counts 1 for the AUC where the positive has the larger score, 1/2 for a
    tie. Pairs inside a merged bin count as ties, so that half of their weight bounds the error.
    capacity: distinct scores kept, 20 bytes each, and so a number of rows over all ranks up to which all is exact.
    """

    larger_is_better: ClassVar = {"auc": True, "average_precision": True, "auc_error_bound": None}

    def __init__(self, capacity: int = 10_000_000) -> None:
        self._gathered = GatheredTable(capacity)

    def update(self, rows: Predictions) -> None:
        """Takes in a batch's rows."""
        self._gathered.add(rows.score, rows.label, rows.weight)

    def compute(self, collective: Collective) -> dict[str, float]:
        """Returns AUC, average precision and, of a compacted table, how far AUC may be off; undefined by NaN scores."""
        table = self._gathered.of_all_ranks(collective)
        if table is None:
            return dict.fromkeys(("auc", "average_precision"), Undefined(NAN_SCORES))
        positives, negatives = table.positives, table.negatives
        below = negatives.cumsum(0) - negatives
        all_positive, all_negative = float(positives.sum()), float(negatives.sum())
        pairs, reason = all_positive * all_negative, lacking(all_positive, all_negative)
        values = {
            "auc": ratio(float(positives @ (below + negatives / 2)), pairs, reason),
            "average_precision": ratio(float(positives @ _precision(table)), all_positive, reason),
        }
        if table.dropped:
            values["auc_error_bound"] = ratio(float(positives @ negatives) / 2, pairs, reason)
        return values

    def curves(self, collective: Collective) -> tuple[OperatingPoints, CalibrationBins] | None:
        """Returns the points of the ROC and PR curves, and calibration; all ranks must call it.

        None where a score was NaN, or no row has a weight.
        """
        table = self.score_table(collective)
        return None if table is None else (OperatingPoints.of(table).thinned(), CalibrationBins.of(table))

    def score_table(self, collective: Collective) -> ScoreTable | None:
        """Returns the table of all ranks' rows, which all ranks must ask for; None where `curves` are None."""
        return self._gathered.with_weight(collective)

    def binned_curves(self, collective: Collective) -> dict[str, Columns] | None:
        """Returns `curves` in a few hundred numbers, as `score_table` does."""
        table = self.score_table(collective)
        return None if table is None else binned_curves(table)


def _descending(weights: Tensor) -> Tensor:
    """Returns [K] weight at or above each score, from the largest score down."""
    return weights.flip(0).cumsum(0)


def _precision(table: ScoreTable) -> Tensor:
    """Returns [K] share of positives in the weight at or above each key, keys ascending."""
    true, false = _descending(table.positives), _descending(table.negatives)
    return (true / (true + false)).flip(0)
