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
        self._preparation = Preparation(session.environment)
        self._waiting: deque[tuple[Prepared, Exception | None]] = deque()
        self._epoch, self._step, self._left = epoch, step, count
        self._batches = self._read()

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
        self._batches.close()
        for prepared, _ in self._waiting:
            prepared.rows_and_weight()
        self._waiting.clear()

    def _start(self) -> bool:
        """Starts to prepare one batch; says whether there was one."""
        if self._waiting and self._waiting[-1][1] is not None:
            return False
        error = None
        try:
            batch = next(self._batches, None)
            if batch is not None:
                self._session.model.task.check(batch)
        except Exception as found:
            batch, error = self._loader.padding(self._step), found
        if batch is None:
            return False
        self._waiting.append((self._preparation.start(batch), error))
        return True

    def _read(self) -> Generator[Batch, None, None]:
        while self._left:
            batches = self._loader.epoch(self._epoch, self._step)
            if self._session.environment.device.type == "cuda":
                batches = prefetched(map(Batch.pin_memory, batches), 1)
            for batch in batches:
                yield batch
                self._step += 1
                self._left -= 1
                if not self._left:
                    return
            self._epoch, self._step = self._epoch + 1, 0
