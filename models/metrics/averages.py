"""Averages are ratios of weighted sums: log loss, calibration, accuracy, RMSE, MAE, TD error."""

from abc import abstractmethod
from collections.abc import Sequence
from math import isnan, log, sqrt
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.undefined import Undefined

NO_WEIGHT = "no row has a weight over 0"
NOTHING_COMPARED = "rows have no negatives here, or scores are not finite"
NO_POSITIVES, NO_NEGATIVES = "all labels are 0", "all labels are 1"


def ratio(numerator: float, denominator: float, reason: str = NO_WEIGHT) -> float:
    """Returns numerator / denominator; `Undefined`, for this reason, where the denominator is 0."""
    return numerator / denominator if denominator else Undefined(reason)


def lacking(positives: float, negatives: float) -> str:
    """Says which weight rows lack to be of two classes, of which at least one has none."""
    if positives == negatives == 0:
        return NO_WEIGHT
    return NO_NEGATIVES if positives else NO_POSITIVES


class Sums(Metric):
    """A metric of sums keeps a vector of float64 sums on the device of the predictions."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    @abstractmethod
    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        """Returns what is summed over rows, [n] each."""

    @abstractmethod
    def values(self, sums: Sequence[float]) -> dict[str, float]:
        """Returns the metric's values from the sums of `terms`, in their order."""

    def update(self, rows: Predictions) -> None:
        """Adds a batch's sums to those so far."""
        sums = torch.stack([term.sum(dtype=torch.float64) for term in self.terms(rows)])
        self._sums = sums if self._sums is None else self._sums + sums

    def compute(self, collective: Collective) -> dict[str, float]:
        """Returns the values from the sums over all ranks. Raises RuntimeError before any update."""
        if self._sums is None:
            raise RuntimeError(f"{type(self).__name__}: compute before any update")
        return self.values(collective.sum(self._sums).tolist())


class LogLoss(Sums):
    """`log_loss` is -E[y ln p + (1 - y) ln(1 - p)], `normalized_entropy` log loss / entropy of the mean label.

    Computed from logits (`score`), so that confident predictions lose nothing to rounding. Normalized entropy (He et
    al., ADKDD 2014) is below 1 where the model beats the constant mean, and undefined where labels are of one class.
    """

    larger_is_better: ClassVar = {"log_loss": False, "normalized_entropy": False}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        loss = softplus(rows.score) - rows.label * rows.score
        return rows.weight * loss, rows.weight * rows.label, rows.weight

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        loss, label, weight = sums
        log_loss, p = ratio(loss, weight), ratio(label, weight)
        if not 0 < p < 1:
            return {"log_loss": log_loss, "normalized_entropy": Undefined(lacking(label, weight - label))}
        entropy = -p * log(p) - (1 - p) * log(1 - p)
        return {"log_loss": log_loss, "normalized_entropy": log_loss / entropy}


class Calibration(Sums):
    """`calibration` is mean prediction / mean label (undefined without positives); both means are beside it."""

    larger_is_better: ClassVar = {"calibration": None, "label_mean": None, "prediction_mean": None}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        return rows.weight * rows.value, rows.weight * rows.label, rows.weight

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        value, label, weight = sums
        return {
            "calibration": ratio(value, label, lacking(label, weight - label)),
            "label_mean": ratio(label, weight),
            "prediction_mean": ratio(value, weight),
        }


class Accuracy(Sums):
    """`accuracy` is the share of rows that `value >= threshold` puts into their class."""

    larger_is_better: ClassVar = {"accuracy": True}

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        right = (rows.value >= self.threshold) == (rows.label >= 0.5)
        return rows.weight * right, rows.weight

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        right, weight = sums
        return {"accuracy": ratio(right, weight)}


class Errors(Sums):
    """`rmse` and `mae` are errors of the predicted values; the two means are beside them."""

    larger_is_better: ClassVar = {"rmse": False, "mae": False, "label_mean": None, "prediction_mean": None}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        error, w = rows.value - rows.label, rows.weight
        return w * error.square(), w * error.abs(), w * rows.label, w * rows.value, w

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        square, absolute, label, value, weight = sums
        return {
            "rmse": sqrt(square / weight) if weight else Undefined(NO_WEIGHT),
            "mae": ratio(absolute, weight),
            "label_mean": ratio(label, weight),
            "prediction_mean": ratio(value, weight),
        }


class TemporalDifferences(Sums):
    """`td_error` is the mean squared difference of values to their targets; the means of both are beside it."""

    larger_is_better: ClassVar = {"td_error": False, "mean_q": None, "mean_target": None}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        w = rows.weight
        return w * (rows.value - rows.label).square(), w * rows.value, w * rows.label, w

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        *totals, weight = sums
        return {name: ratio(total, weight) for name, total in zip(self.larger_is_better, totals, strict=True)}


class MeanLoss(Sums):
    """`loss` is the mean of rows' losses, their `value`, undefined where the data do not say what a loss compares."""

    larger_is_better: ClassVar = {"loss": False}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        return torch.where(rows.weight > 0, rows.weight * rows.value, 0), rows.weight

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        loss, weight = sums
        return {"loss": Undefined(NOTHING_COMPARED) if isnan(loss) else ratio(loss, weight)}


class Rows(Sums):
    """`rows` says how many rows were seen, whatever their weights."""

    larger_is_better: ClassVar = {"rows": None}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        return (torch.ones_like(rows.weight),)

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        return {"rows": sums[0]}
