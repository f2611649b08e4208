"""A metric set holds the metrics of one evaluation, which are computed together."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.models.metrics.collective import Alone, Collective
from shardrec.models.metrics.curves import CalibrationBins, OperatingPoints
from shardrec.models.metrics.metric import Columns, Metric
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.ranking import Ranking
from shardrec.models.undefined import Undefined

NOT_FINITE = "the model's scores are not finite"


class MetricSet:
    """A metric set is made for one pass over some data: `update` per batch, `compute` once all ranks are through."""

    def __init__(
        self,
        metrics: Sequence[Metric],
        read: Callable[[Any, Batch], Predictions],
        collective: Collective | None = None,
        lacking: Mapping[str, str] | None = None,
    ) -> None:
        """lacking: metrics that the task would have, and what it lacks to have them."""
        self._lacking = dict(lacking or {})
        self._metrics = tuple(metrics)
        self._read = read
        self._collective = collective or Alone()

    def of(self, part: Callable[[Any], Any]) -> "MetricSet":
        """Returns these metrics for a tower that returns more than their task reads: `part` takes out what it reads."""
        return MetricSet(
            self._metrics, lambda output, batch: self._read(part(output), batch), self._collective, self._lacking
        )

    @torch.no_grad()
    def update(self, output: Any, batch: Batch) -> None:
        """Adds this rank's rows: what the tower returned for `batch`. Padding counts nowhere."""
        rows = self._read(output, batch)
        for metric in self._metrics:
            metric.update(rows)

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Returns values by name over all ranks' rows, equal on all ranks, which must all call it.

        Each is finite or `Undefined`.
        """
        values: dict[str, float] = {}
        for metric in self._metrics:
            values |= metric.compute(self._collective)
        return {
            name: value if isinstance(value, Undefined) or isfinite(value) else Undefined(NOT_FINITE)
            for name, value in values.items()
        }

    @property
    def has_curves(self) -> bool:
        """Says whether the task scores two classes, which is what curves are of."""
        return self._ranking is not None

    @torch.no_grad()
    def curves(self) -> tuple[OperatingPoints, CalibrationBins] | None:
        """Returns what `Ranking.curves` does, over all ranks' rows; all ranks must call it. None without curves."""
        return None if self._ranking is None else self._ranking.curves(self._collective)

    @torch.no_grad()
    def binned_curves(self) -> dict[str, Columns] | None:
        """Returns what pictures of the metrics are drawn of; all ranks must call it. None where there are none."""
        found = [metric.binned_curves(self._collective) for metric in self._metrics]
        return next((curves for curves in found if curves is not None), None)

    @property
    def _ranking(self) -> Ranking | None:
        return next((metric for metric in self._metrics if isinstance(metric, Ranking)), None)

    @property
    def directions(self) -> dict[str, bool]:
        """Says of values that a best step can be chosen by, the task's own choice first, whether larger is better."""
        return {k: v for metric in self._metrics for k, v in metric.larger_is_better.items() if v is not None}

    def larger_is_better(self, name: str) -> bool:
        """Says whether early stopping looks for a large `name`. Raises UserError for a name that it cannot go by."""
        known = self.directions
        if name in self._lacking:
            raise UserError(f"metric {name!r}: {self._lacking[name]}")
        if name not in known:
            raise UserError(unknown("metric to select by", name, list(known)))
        return known[name]
