"""Class errors measure predictions of one class out of several."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from shardrec.models.metrics.averages import Sums, ratio
from shardrec.models.metrics.predictions import Predictions


class ClassErrors(Sums):
    """`log_loss` is -E[ln p of the label's class], `accuracy` the share of rows whose most probable class is right.

    Reads `score` as the log-probability of the label's class and `value` as the most probable class.
    """

    larger_is_better: ClassVar = {"log_loss": False, "accuracy": True}

    def terms(self, rows: Predictions) -> tuple[Tensor, ...]:
        return -rows.weight * rows.score, rows.weight * (rows.value == rows.label), rows.weight

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        loss, right, weight = sums
        return {"log_loss": ratio(loss, weight), "accuracy": ratio(right, weight)}
