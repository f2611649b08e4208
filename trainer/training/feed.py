"""A feed hands batches to steps, and prepares the next ones while a step computes."""

from collections import deque
from collections.abc import Generator, Iterator

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.loading.prefetch import prefetched
from shardrec.trainer.session.prepared import Preparation, Prepared
from shardrec.trainer.session.session import Session


class Feed:
    """A feed has `count` batches, from batch `step` of an epoch on, of as many epochs as they take.

    ahead: how many are prepared before their turn; with 0 none is. What a batch that cannot be read raises is raised in
    its turn, when every step before it is done. Until then this worker takes part in what all prepare, with padding.
    All workers use it alike.
    """

    def __init__(self, session: Session, loader: Loader, ahead: int, *, epoch: int, step: int, count: int) -> None:
        self._session, self._loader, self._ahead = session, loader, ahead
        self._preparation = Preparation(session.environment, session.distributed.lookup)
        self._waiting: deque[tuple[Prepared, Exception | None]] = deque()
        self._left, self._step, self._failed = count, step, False
        self._batches = self._read(epoch, step)

    def __iter__(self) -> Iterator[Prepared]:
        while self._waiting or self._start():
            prepared, error = self._waiting.popleft()
            if error is not None:
                raise error
            yield prepared

    def prepare(self) -> None:
        """Starts to prepare the batches that come next. It is called in mid-step, where the device is at work.

        Of the very next one the ids are sent, too.
        """
        while len(self._waiting) < self._ahead and self._start():
            pass
        if self._waiting:
            self._waiting[0][0].send_ids(self._session.distributed.lookup)

    def close(self) -> None:
        """Ends what reads ahead, once all ranks are done with what was prepared in vain."""
        self.stop_reading()
        for prepared, _ in self._waiting:
            prepared.rows_and_weight()
        self._waiting.clear()

    def stop_reading(self) -> None:
        """Ends what reads ahead. Waits for no other worker."""
        self._batches.close()

    def _start(self) -> bool:
        """Starts to prepare one batch; says whether there was one."""
        if not self._left:
            return False
        batch, error = self._next()
        prepared = self._preparation.start(batch)
        prepared.place = self._step
        self._waiting.append((prepared, error))
        self._left, self._step = self._left - 1, (self._step + 1) % self._loader.steps_per_epoch
        return True

    def _next(self) -> tuple[Batch, Exception | None]:
        """Returns the next batch; after one that raised, others go on until its turn, and this worker with padding."""
        if self._failed:
            return self._loader.padding(self._step), None
        try:
            batch = next(self._batches)
            self._session.model.task.check(batch)
        except Exception as error:
            self._failed = True
            return self._loader.padding(self._step), error
        return batch, None

    def _read(self, epoch: int, step: int) -> Generator[Batch, None, None]:
        while True:
            batches = self._loader.epoch(epoch, step)
            if self._session.environment.device.type == "cuda":
                batches = prefetched(map(Batch.pin_memory, batches), 1)
            yield from batches
            epoch, step = epoch + 1, 0
