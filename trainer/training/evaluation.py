"""Evaluation scores rows with the tables as they are; training then goes on as if nothing had happened."""

from collections.abc import Callable
from typing import NamedTuple

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.metrics import MetricSet
from shardrec.models.metrics.metric import Columns
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.trainer.session.scoring_pass import ScoringPass
from shardrec.trainer.session.session import Session


class Evaluation(NamedTuple):
    """An evaluation has metrics, finite or `Undefined`, and binned curves, where the task and the rows have them."""

    metrics: dict[str, float]
    curves: dict[str, Columns] | None


def evaluate(session: Session, loader: Loader, on_batch: Callable[[int], None] = lambda step: None) -> Evaluation:
    """Returns the task's metrics over all rows of `loader`, those of rank 0 on every rank, and their curves.

    What is decided by metrics is thereby decided alike, also where sums on GPUs come out a little different on each.
    `on_batch` and errors are as in `scored`.
    """
    found = scored(session, loader, on_batch)
    return Evaluation(session.environment.broadcast(found.compute()), found.binned_curves())


def scored(session: Session, loader: Loader, on_batch: Callable[[int], None] = lambda step: None) -> MetricSet:
    """Returns the task's metrics, which this rank's share of the rows of `loader` were put into.

    `on_batch` hears of each finished step. Raises UserError, on all ranks alike, for rows of any rank that cannot be
    read or scored.
    """
    metrics = session.model.task.metrics(ProcessGroupCollective())
    for step, (batch, _, output) in enumerate(ScoringPass(session, loader, session.forward.output), start=1):
        metrics.update(output, batch)
        on_batch(step)
    return metrics


class ProgressiveValidation:
    """Progressive validation scores each batch before it is trained on: rows that the model has not seen."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._metrics: MetricSet | None = None

    def score(self, batch: Batch) -> None:
        """Takes a batch, on the session's device, into account. All ranks call it alike."""
        if self._metrics is None:
            self._metrics = self._session.model.task.metrics(ProcessGroupCollective(), down_sampled=True)
        with self._session.scoring():
            self._metrics.update(self._session.distributed.module(batch), batch)

    @property
    def has_rows(self) -> bool:
        """Says whether rows were scored since the last call of `metrics`."""
        return self._metrics is not None

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of the rows scored since the last call. All ranks call it alike."""
        assert self._metrics is not None
        found, self._metrics = self._metrics.compute(), None
        return found
