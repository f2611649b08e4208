"""Ranking metrics (AUC, average precision) and curves are read off one table of scores.

The table holds each distinct float32 score once, with the weight of its positives and of its negatives, and so knows
ties. It is exact as long as there are no more than `capacity` distinct scores over all ranks. Beyond that, neighbouring
scores are merged: keys are the scores' bits in an order-preserving form, and low bits are dropped, one at a time, until
the table fits. So bins get no coarser than memory demands, wherever the scores lie, and the error is bounded by what
happens inside of them.
"""

from typing import ClassVar

import torch
from torch import Tensor

from shardrec.models.metrics.averages import lacking, ratio
from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.curves import CalibrationBins, OperatingPoints
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.ordered_bits import NAN_SCORES, is_nan, ordered_bits
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.score_table import ScoreTable
from shardrec.models.undefined import Undefined

COMPACTION_ROWS = 1 << 20


class Ranking(Metric):
    """`auc` and `average_precision` rank rows of two classes; `auc_error_bound` is there once scores had to be merged.

    A weighted pair of rows of different class counts 1 for the AUC where the positive has the larger score, 1/2 for a
    tie. Pairs inside a merged bin count as ties, so that half of their weight bounds the error.
    capacity: distinct scores kept, 20 bytes each, and so a number of rows over all ranks up to which all is exact.
    """

    larger_is_better: ClassVar = {"auc": True, "average_precision": True, "auc_error_bound": None}

    def __init__(self, capacity: int = 10_000_000) -> None:
        self.capacity = capacity
        self._table: ScoreTable | None = None
        self._nan = False
        self._recent: list[tuple[Tensor, Tensor, Tensor]] = []
        self._recent_rows = 0
        self._merged: tuple[ScoreTable | None] | None = None

    def update(self, rows: Predictions) -> None:
        """Takes in a batch's rows; they are put into the score table when enough have come."""
        self._merged = None
        self._recent.append((ordered_bits(rows.score), rows.label.float(), rows.weight.float()))
        self._recent_rows += rows.label.numel()
        # waiting until the new rows are as many as the old keys keeps the number of sorts logarithmic
        settled = 0 if self._table is None else self._table.keys.numel()
        if self._recent_rows > max(COMPACTION_ROWS, settled):
            self._settle()

    def _settle(self) -> ScoreTable:
        if self._recent:
            keys, label, weight = (torch.cat(parts) for parts in zip(*self._recent, strict=True))
            self._nan = self._nan or bool(is_nan(keys).any())
            positives = weight.double() * label
            new = ScoreTable.summed(keys, positives, weight.double() - positives)
            both = new if self._table is None else ScoreTable.merged([self._table, new])
            self._table = both.within(self.capacity)
            self._recent, self._recent_rows = [], 0
        if self._table is None:
            raise RuntimeError("Ranking: compute before any update")
        return self._table

    def _merge(self, collective: Collective) -> ScoreTable | None:
        """Returns the table of all ranks' rows, kept until any has more of them; None where a score was NaN."""
        table = self._settle()
        known = torch.tensor([self._merged is not None], dtype=torch.int32, device=table.keys.device)
        if self._merged is None or not collective.concatenate(known).all():
            self._merged = (self._merge_anew(table, collective),)
        return self._merged[0]

    def _merge_anew(self, table: ScoreTable, collective: Collective) -> ScoreTable | None:
        def all_ranks(*values: int) -> Tensor:
            return collective.concatenate(torch.tensor([values], device=table.keys.device))

        if all_ranks(table.keys.numel()).sum() > self.capacity:
            table = table.within(self.capacity // collective.world_size)
        dropped, has_nan = all_ranks(table.dropped, int(self._nan)).amax(0).tolist()
        table = table.coarser(dropped)
        keys, positives, negatives = (collective.concatenate(column) for column in table[:3])
        return None if has_nan else ScoreTable.summed(keys, positives, negatives, dropped).counted()

    def compute(self, collective: Collective) -> dict[str, float]:
        """Returns AUC, average precision and, of a compacted table, how far AUC may be off; undefined by NaN scores."""
        table = self._merge(collective)
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
        table = self._merge(collective)
        return None if table is None or not table.keys.numel() else table


def _descending(weights: Tensor) -> Tensor:
    """Returns [K] weight at or above each score, from the largest score down."""
    return weights.flip(0).cumsum(0)


def _precision(table: ScoreTable) -> Tensor:
    """Returns [K] share of positives in the weight at or above each key, keys ascending."""
    true, false = _descending(table.positives), _descending(table.negatives)
    return (true / (true + false)).flip(0)
