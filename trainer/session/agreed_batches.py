"""Ranks that score rows stop together: one that finds a bad row goes on with padding until all have heard of it."""

from collections.abc import Iterator
from itertools import repeat

import pyarrow as pa
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.launch.agreement import raise_alike
from shardrec.trainer.session.session import Session

ASK_STEPS = 16
"""Ranks ask each other whether all is well once in so many steps: a sum of one number, among as many exchanges."""


class AgreedBatches:
    """The batches of one rank are as many as every other's, whatever is wrong with its rows.

    A rank that raised alone would leave its peers waiting in a step's collectives. Here all ranks end their loops at
    the same step, and learn by `raise_error` what was wrong.
    """

    def __init__(self, session: Session, loader: Loader) -> None:
        self._session, self._environment, self._loader = session, session.environment, loader
        self._error: UserError | None = None

    def __iter__(self) -> Iterator[tuple[Batch, pa.Table]]:
        """Yields each batch with the loader's extra columns of its live rows; padding has no rows."""
        for step, item in enumerate(self._items(), start=1):
            yield item
            if step % ASK_STEPS == 0 and self._somebody_failed():
                return

    def _items(self) -> Iterator[tuple[Batch, pa.Table]]:
        done, columns = 0, pa.table({})
        try:
            for batch, columns in self._loader.epoch_with_columns(0):
                self._session.model.task.check(batch)
                yield batch, columns
                done += 1
        except UserError as error:
            self._error = error
        if self._error is not None and self._environment.world_size > 1:
            steps = range(done, self._loader.steps_per_epoch)
            yield from zip(map(self._loader.padding, steps), repeat(columns.slice(0, 0)), strict=False)

    def _somebody_failed(self) -> bool:
        failed = torch.tensor([self._error is not None], dtype=torch.float64)
        return bool(self._environment.summed(failed).item())

    def raise_error(self) -> None:
        """Raises the first rank's error, if there is any. All ranks call it alike."""
        raise_alike(self._environment, self._error)
