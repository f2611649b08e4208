"""Episodes run one after another in this process, or several side by side, each in a process of its own."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from typing import NamedTuple

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.launch.parent import end_with_parent
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.simulation.episode import Episode
from shardrec.trainer.simulation.run_file import SimulationConfig

_POLL_SECONDS = 0.25
_days_over: "Synchronized[int] | None" = None  # in a worker: those of all workers together


class EpisodeKey(NamedTuple):
    """An episode's key is whose it is: one policy's, with one seed."""

    policy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.policy}, seed {self.seed}"


class EpisodeOutcome(NamedTuple):
    """An outcome of an episode is that it is over, or the line that it failed with."""

    key: EpisodeKey
    failure: str | None = None


def one_by_one(config: SimulationConfig, keys: Sequence[EpisodeKey], shown: ProgressFile) -> Iterator[EpisodeOutcome]:
    """Lives through episodes, and yields what became of each."""
    for number, key in enumerate(keys, start=1):
        progress = shown.counter(f"{key} ({number} of {len(keys)})", config.simulation.days)
        try:
            Episode(config, *key).run(progress)
            yield EpisodeOutcome(key)
        except (UserError, MemoryError) as error:
            yield EpisodeOutcome(key, _line(error))


def side_by_side(
    config: SimulationConfig, keys: Sequence[EpisodeKey], shown: ProgressFile, workers: int
) -> Iterator[EpisodeOutcome]:
    """Does the same with so many at a time."""
    context = multiprocessing.get_context("spawn")
    days = context.Value("q", 0)
    count = shown.counter(f"{len(keys)} episodes, {workers} side by side", len(keys) * config.simulation.days)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(days,)) as pool:
        futures: dict[Future[None], EpisodeKey] = {pool.submit(_live, config, key): key for key in keys}
        try:
            while futures:
                over, _ = wait(futures, _POLL_SECONDS, FIRST_COMPLETED)
                count(days.value)
                for future in over:
                    yield EpisodeOutcome(futures.pop(future), _failure(future))
        finally:
            pool.shutdown(cancel_futures=True)


def _failure(future: "Future[None]") -> str | None:
    try:
        future.result()
    except (UserError, MemoryError) as error:
        return _line(error)
    except BrokenProcessPool:
        return "a process in which an episode ran was killed"
    return None


def _line(error: UserError | MemoryError) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"memory is not enough ({error}); take fewer simulation.users, candidates or news.topics"


def _begin(days: "Synchronized[int]") -> None:
    global _days_over
    _days_over = days
    end_with_parent()


def _live(config: SimulationConfig, key: EpisodeKey) -> None:
    before: int | None = None

    def over(day: int) -> None:
        nonlocal before
        assert _days_over is not None
        with _days_over.get_lock():
            _days_over.value += day if before is None else day - before
        before = day

    Episode(config, *key).run(over)
