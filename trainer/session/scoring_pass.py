"""A scoring pass reads, looks up and scores at once, and hands results on in the order of rows.

On CPU the towers of several batches run side by side, each in a thread of its own: of an operator that threads share
all wait for the slowest, and that is the one whose core reads or writes. Lookups are made one after another, as ranks
exchange ids and rows in them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Generic, TypeVar

import pyarrow as pa
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.layers.packed import packed
from shardrec.trainer.session.agreed_batches import AgreedBatches
from shardrec.trainer.session.bad_rows import check_few
from shardrec.trainer.session.forward import Inputs
from shardrec.trainer.session.loaders import batches_at_once
from shardrec.trainer.session.session import Session

T = TypeVar("T")


class ScoringPass(Generic[T]):
    """A scoring pass goes once over this rank's rows of a loader. All ranks make it alike, and to its end.

    score: makes a batch's result of what the tower reads of it and of the batch, both on the session's device. It is
    called in evaluation mode without gradients, for several batches at once, and exchanges nothing between ranks, but
    for batches that have `alternatives`, which are scored in turn.
    """

    def __init__(self, session: Session, loader: Loader, score: Callable[[Inputs, Batch], T]) -> None:
        self._session, self._loader = session, loader
        self._batches = AgreedBatches(session, loader)
        self._score = torch.no_grad()(score)

    def __iter__(self) -> Iterator[tuple[Batch, pa.Table, T]]:
        """Yields each batch, on the session's device, with the loader's extra columns of its live rows and its result.

        Raises UserError, on all ranks alike, for rows of any rank that cannot be read, after the rows before; where the
        loader leaves such rows out, for more of them than the run file allows.
        """
        live = 0
        at_once = batches_at_once(self._session.config, self._session.environment)
        begun: deque[tuple[Batch, pa.Table, Callable[[], T]]] = deque()
        with self._evaluating(), _threads(at_once) as threads:
            for batch, columns in self._batches:
                live += int(batch.live.sum()) if self._loader.skips_bad else 0
                batch = batch.to(self._session.environment.device)
                begun.append((batch, columns, self._begin(batch, threads)))
                if len(begun) > at_once:
                    yield _next(begun)
            while begun:
                yield _next(begun)
        self._batches.raise_error()
        if self._loader.skips_bad:
            self._judge(live)

    def _judge(self, live: int) -> None:
        """Counts the rows that were left out; live: rows that this rank had."""
        environment, loader = self._session.environment, self._loader
        loader.left_out = loader.num_rows - sum(environment.gather(live))
        check_few(loader.left_out, loader, environment, self._session.config.data.max_bad_fraction)

    def _begin(self, batch: Batch, threads: ThreadPoolExecutor | None) -> Callable[[], T]:
        """Looks a batch up and has it scored; returns what waits for the result."""
        with torch.no_grad():
            inputs = self._session.forward.inputs(batch)
        if threads is None or batch.alternatives is not None:
            result = self._score(inputs, batch)
            return lambda: result
        return threads.submit(self._score, inputs, batch).result

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        module = self._session.distributed.module
        was_training = module.training
        module.eval()
        try:
            with self._packed():
                yield
        finally:
            module.train(was_training)

    def _packed(self) -> AbstractContextManager[None]:
        if self._session.environment.device.type != "cpu":
            return nullcontext()
        reduced = self._session.config.trainer.precision == "bf16"
        return packed(self._session.model, torch.bfloat16 if reduced else torch.float32)


def _next(begun: deque[tuple[Batch, pa.Table, Callable[[], T]]]) -> tuple[Batch, pa.Table, T]:
    batch, columns, result = begun.popleft()
    return batch, columns, result()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor | None]:
    """Shares torch's threads out to `count` threads, until this is done; None for one, which is this one."""
    if count == 1:
        yield None
        return
    all_threads = torch.get_num_threads()
    each = max(1, all_threads // count)
    with_threads = ThreadPoolExecutor(count, "shardrec-score", initializer=torch.set_num_threads, initargs=(each,))
    torch.set_num_threads(1)
    try:
        yield with_threads
    finally:
        with_threads.shutdown(cancel_futures=True)
        torch.set_num_threads(all_threads)
