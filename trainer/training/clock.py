"""A clock measures training speed, without the time that evaluations, checkpoints and the first steps take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

WARM_UP_STEPS = 3  # kernels are chosen and buffers grown in the first steps


class Clock:
    """A clock counts rows and seconds from the step after warm-up on; `paused` leaves out what is not training.

    first_step_at: when the first step was done, in seconds of the epoch.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._rows = 0
        self._began = time.monotonic()
        self._paused = 0.0
        self._told = (0, 0.0)
        self.first_step_at: float | None = None

    @property
    def seconds(self) -> float:
        """Returns the seconds since the warm-up, without pauses."""
        return time.monotonic() - self._began - self._paused

    @property
    def rate(self) -> float:
        """Returns the samples a second, 0 before there is anything to tell."""
        return self._rows / self.seconds if self._rows else 0.0

    def recent_rate(self) -> float:
        """Returns the samples a second since this was asked last, 0 where there is nothing to tell."""
        (rows, seconds), self._told = self._told, (self._rows, self.seconds)
        return (self._rows - rows) / (self._told[1] - seconds) if self._rows > rows else 0.0

    def step(self, rows: int) -> None:
        """Counts a step of so many samples; those of the warm-up do not enter the rate."""
        self._steps += 1
        if self._steps == 1:
            self.first_step_at = time.time()
        if self._steps == WARM_UP_STEPS:
            self._began, self._paused, self._told = time.monotonic(), 0.0, (0, 0.0)
        elif self._steps > WARM_UP_STEPS:
            self._rows += rows

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time that the block takes out of `seconds`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began
