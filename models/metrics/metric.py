"""A metric is a state that adds up over batches and merges over ranks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.predictions import Predictions

Columns = dict[str, list[float | None]]
"""A table of numbers that JSON can hold: what is not finite is None."""


class Metric(ABC):
    """A metric has one or several named values over all rows seen by all ranks; sums are kept in float64.

    A value that its rows do not define (the AUC of one class) is `Undefined`, a NaN that says why.
    """

    larger_is_better: ClassVar[Mapping[str, bool | None]]
    """The values' names; None where neither direction is better (a calibration of 1 is)."""

    @abstractmethod
    def update(self, rows: Predictions) -> None:
        """Adds a batch of this rank's rows; no communication."""

    @abstractmethod
    def compute(self, collective: Collective) -> dict[str, float]:
        """Returns the values over all ranks' rows, equal on all ranks, which must all call it. Updates may go on."""

    def binned_curves(self, collective: Collective) -> dict[str, Columns] | None:
        """Returns what pictures are drawn of, by name, in a few hundred numbers; None: nothing. All ranks call it."""
        return None
