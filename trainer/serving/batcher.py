"""Rows of requests that arrive while others are being scored are scored together, in one thread.

A request that finds the thread idle is scored at once: it never waits for company. While the thread computes, what
arrives waits in a queue, and all of it (up to a number of rows) is the next batch. So batches grow with the load and
the latency without load is that of the row alone.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardrec.trainer.export.loader import RowError
from shardrec.trainer.serving.wire.refusals import Refusal, busy

TRIES = 4
"""How often a batch is scored without the rows that it failed by, before each of its requests is scored by itself."""

Row = dict[str, Any]
"""A row of raw columns, as JSON has it."""

Score = Callable[[list[Row]], Any]
"""B scores of B rows: numbers, or rows of numbers."""


@dataclass(eq=False)
class Work:
    """Work is what one request wants computed: `rows` by `score`, which others may share, or a call of its own."""

    future: "asyncio.Future[Any]"
    deadline: float  # of time.monotonic
    call: Callable[[], Any]
    score: Score | None = None
    rows: list[Row] = field(default_factory=list)


class Batcher:
    """A batcher computes one thing at a time in a thread of its own, and answers on the event loop.

    max_rows: rows of a batch, at most (a request of more is a batch of its own). wait: seconds that a batch which is
    not full waits for more rows, 0 for none. watch: called with the rows and requests of each batch.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, max_rows: int, wait: float, watch: Callable[[int, int], None]
    ) -> None:
        self._loop, self._max_rows, self._wait, self._watch = loop, max_rows, wait, watch
        self._waiting: deque[Work] = deque()
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    async def score(self, score: Score, rows: list[Row], deadline: float) -> Any:
        """Returns the scores of `rows`, which may have been computed with those of other requests of the same `score`.

        Raises Refusal after the deadline, and what `score` raises for these rows.
        """
        return await self._do(Work(self._loop.create_future(), deadline, lambda: score(rows), score, rows))

    async def call(self, function: Callable[[], Any], deadline: float) -> Any:
        """Returns what `function` does, computed in the thread. Raises Refusal after the deadline."""
        return await self._do(Work(self._loop.create_future(), deadline, function))

    def close(self) -> None:
        """Ends the thread once everything is computed that was asked for."""
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join()

    async def _do(self, work: Work) -> Any:
        timer = self._loop.call_later(max(0.0, work.deadline - time.monotonic()), _too_late, work.future)
        with self._news:
            self._waiting.append(work)
            self._news.notify()
        try:
            return await work.future
        finally:
            timer.cancel()

    def _run(self) -> None:
        while batch := self._next():
            answers = self._computed(batch)
            self._loop.call_soon_threadsafe(_deliver, batch, answers)

    def _next(self) -> list[Work]:
        """Waits for work, and takes as much of it as is computed together; nothing at the end."""
        with self._news:
            while not self._waiting and not self._ended:
                self._news.wait()
            if self._wait and self._waiting and self._waiting[0].score is not None:
                until = time.monotonic() + self._wait
                while self._rows_waiting() < self._max_rows and (left := until - time.monotonic()) > 0:
                    self._news.wait(left)
            return self._taken()

    def _rows_waiting(self) -> int:
        return sum(len(work.rows) for work in self._waiting)

    def _taken(self) -> list[Work]:
        if not self._waiting:
            return []
        batch = [self._waiting.popleft()]
        score, rows = batch[0].score, len(batch[0].rows)
        while score is not None and self._waiting and self._waiting[0].score is score:
            rows += len(self._waiting[0].rows)
            if rows > self._max_rows:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _computed(self, batch: list[Work]) -> list[Any]:
        """Returns an answer or an exception for each of a batch; None for what came too late to be computed."""
        now = time.monotonic()
        live = [work for work in batch if work.deadline > now and not work.future.done()]
        answers: dict[Work, Any] = {}
        score = live[0].score if live else None
        if score is not None:
            self._watch(sum(len(work.rows) for work in live), len(live))
            for _ in range(TRIES):
                if len(live) < 2:
                    break
                try:
                    scores = score([row for work in live for row in work.rows])
                except RowError as error:  # it fails its own request, and the others are scored without it
                    if error.row is None:
                        break
                    ends = np.cumsum([len(work.rows) for work in live])
                    wrong = live.pop(int(np.searchsorted(ends, error.row, side="right")))
                    answers[wrong] = _answer(wrong.call)  # which counts rows from its own first one
                except Exception:
                    break
                else:
                    first = 0
                    for work in live:
                        answers[work] = scores[first : first + len(work.rows)]
                        first += len(work.rows)
                    live = []
        answers.update({work: _answer(work.call) for work in live})
        return [answers.get(work) for work in batch]


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def _too_late(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(late())


def late() -> Refusal:
    """Returns the refusal of a request that was not answered in time."""
    return busy("not answered in time; the service has more work than it can do")


def _deliver(batch: list[Work], answers: list[Any]) -> None:
    for work, answer in zip(batch, answers, strict=True):
        if work.future.done():
            continue
        if answer is None:
            work.future.set_exception(late())
        elif isinstance(answer, Exception):
            work.future.set_exception(answer)
        else:
            work.future.set_result(answer)
