"""Workers wait for one another many times a step, so one slow machine makes all slow: which one it is, is told."""

import os
from pathlib import Path
from statistics import median

from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.worker_lines import say

SLOW = 1.5
"""Times as long as the others: beyond what threads of equal machines differ by."""

SLOW_BY = 2e-3  # seconds a step, below which nobody minds
LOOKS_EVERY = 50  # steps


class Pace:
    """A pace compares the time that each worker's tower takes of a step, without what it waits for the others.

    On a GPU that is the time to start its kernels: it tells a slow host, not a slow GPU. All workers use it alike.
    """

    def __init__(self, environment: Environment, logs: Path) -> None:
        self._environment, self._logs = environment, logs
        self._told: set[int] = set()
        self._step, self._seconds = 0, 0.0

    def look(self, step: int, seconds: float) -> None:
        """Compares what towers took, so many seconds in all up to a step, since the last look at it."""
        steps = step - self._step
        if self._environment.world_size == 1 or steps < LOOKS_EVERY:
            return
        mine, self._step, self._seconds = seconds - self._seconds, step, seconds
        found = self._environment.gather((os.uname().nodename, mine / steps))
        if self._environment.leads:
            self._tell(found)

    def begin(self, step: int) -> None:
        """Counts from a step on: that of the checkpoint that a run goes on from."""
        self._step = step

    def _tell(self, found: list[tuple[str, float]]) -> None:
        """Says which workers have become slow since they were last equal to the others."""
        for rank, (host, seconds) in enumerate(found):
            others = median(taken for other, (_, taken) in enumerate(found) if other != rank)
            if seconds < max(SLOW * others, others + SLOW_BY):
                self._told.discard(rank)
            elif rank not in self._told:
                self._told.add(rank)
                times = f"{seconds * 1e3:.1f} ms a step in the tower, the others {others * 1e3:.1f} ms"
                ratio = f"{seconds / max(others, 1e-6):.1f} times as slow"
                line = f"rank {rank} on {host} is {ratio} as the other workers, which wait for it: {times}"
                say(self._logs, f"shardrec: {line}")
