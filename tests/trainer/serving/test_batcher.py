"""Requests that arrive while others are scored are scored together, and none of them fails for another one."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from shardrec.trainer.export.loader import RowError
from shardrec.trainer.serving.batcher import Batcher, Row
from shardrec.trainer.serving.wire.refusals import Refusal

LATER = 60.0


class Scorer:
    """Scores rows by doubling `x`, fails by rows whose `x` is negative, and waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.score: Callable[[list[Row]], np.ndarray] = self._score

    def _score(self, rows: list[Row]) -> np.ndarray:
        self.batches.append(len(rows))
        assert self.free.wait(LATER)
        for place, row in enumerate(rows):
            if row["x"] < 0:
                raise RowError("found a negative x", place, "x")
        return np.array([2.0 * row["x"] for row in rows])


def run(work: Callable[[Scorer, Batcher], Awaitable[Any]], max_rows: int = 100) -> Any:
    """What `work` returns, with a scorer and a batcher of its own."""

    async def main() -> Any:
        batcher = Batcher(asyncio.get_running_loop(), max_rows, 0.0, lambda rows, requests: None)
        try:
            return await work(Scorer(), batcher)
        finally:
            await asyncio.to_thread(batcher.close)

    return asyncio.run(main())


async def held(scorer: Scorer, batcher: Batcher) -> "asyncio.Task[Any]":
    """A request that the scorer has in hand and does not end before it is set free."""
    scorer.free.clear()
    first = asyncio.create_task(batcher.score(scorer.score, [{"x": 1}], time.monotonic() + LATER))
    while not scorer.batches:
        await asyncio.sleep(0.001)
    return first


async def all_of(scorer: Scorer, batcher: Batcher, *requests: list[int]) -> list[Any]:
    """What each request gets, an answer or an exception; all of them came while the scorer was busy."""
    first = await held(scorer, batcher)
    deadline = time.monotonic() + LATER
    tasks = [asyncio.create_task(batcher.score(scorer.score, [{"x": x} for x in r], deadline)) for r in requests]
    await asyncio.sleep(0)  # each of them is in the queue
    scorer.free.set()
    assert (await first).tolist() == [2]
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_arrives_during_a_batch_is_the_next_one() -> None:
    async def work(scorer: Scorer, batcher: Batcher) -> None:
        answers = await all_of(scorer, batcher, [1, 2], [3], [4, 5, 6])
        assert [a.tolist() for a in answers] == [[2, 4], [6], [8, 10, 12]]
        assert scorer.batches == [1, 6]

    run(work)


def test_a_batch_has_no_more_rows_than_asked_for_but_a_request_is_never_cut() -> None:
    async def work(scorer: Scorer, batcher: Batcher) -> None:
        answers = await all_of(scorer, batcher, [1, 2], [3], [4, 5, 6, 7], [8])
        assert [a.tolist() for a in answers] == [[2, 4], [6], [8, 10, 12, 14], [16]]
        assert scorer.batches == [1, 3, 4, 1]

    run(work, max_rows=3)


@pytest.mark.parametrize("wrong", [1, 2, 7])
def test_a_wrong_row_fails_its_own_request_and_counts_from_its_first_row(wrong: int) -> None:
    async def work(scorer: Scorer, batcher: Batcher) -> None:
        requests = [[i, i + 1, -1 if i % 10 < wrong else i] for i in range(10)]
        answers = await all_of(scorer, batcher, *requests)
        for request, answer in zip(requests, answers, strict=True):
            if -1 in request:
                assert isinstance(answer, RowError)
                assert (answer.row, answer.feature) == (2, "x")
            else:
                assert answer.tolist() == [2 * x for x in request]

    run(work)


def test_what_comes_too_late_is_refused_and_not_scored() -> None:
    async def work(scorer: Scorer, batcher: Batcher) -> None:
        first = await held(scorer, batcher)
        with pytest.raises(Refusal) as refusal:
            await batcher.score(scorer.score, [{"x": 2}], time.monotonic() + 0.01)
        assert refusal.value.status == 503
        assert refusal.value.retry
        scorer.free.set()
        await first
        assert (await batcher.score(scorer.score, [{"x": 3}], time.monotonic() + LATER)).tolist() == [6]
        assert scorer.batches == [1, 1]

    run(work)


def test_rows_of_two_bundles_are_not_scored_together() -> None:
    async def work(scorer: Scorer, batcher: Batcher) -> None:
        other = Scorer()
        first = await held(scorer, batcher)
        deadline = time.monotonic() + LATER
        tasks = [asyncio.create_task(batcher.score(s.score, [{"x": 1}], deadline)) for s in (scorer, other, scorer)]
        await asyncio.sleep(0)
        scorer.free.set()
        await asyncio.gather(first, *tasks)
        assert (scorer.batches, other.batches) == ([1, 1, 1], [1])

    run(work)
