"""Interrupts are held while something is begun or put away, which one that comes then would leave half done."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from shardrec.data_pipeline.files.late_signals import comes_late


class Interrupts:
    """Interrupts are those of this process from now on, held at first; the main thread alone gets any.

    is_held: what comes waits for `release` or `end`; to be set as a plain name, since a call could be interrupted.
    SIGTERM raises SystemExit until `end`; leave_termination: it does what it did before.
    """

    def __init__(self, *, leave_termination: bool = False) -> None:
        self.is_held = True
        self._came: list[int] = []
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if leave_termination else (signal.SIGINT, signal.SIGTERM):
                if number == signal.SIGTERM or callable(signal.getsignal(number)):  # else Ctrl-C is nobody's
                    self._before[number] = signal.signal(number, self._take)

    def release(self) -> None:
        """Raises what has come meanwhile, and from now on what comes at once."""
        self.is_held = False
        if self._came:
            self._raise(self._came.pop(), None)

    def end(self) -> None:
        """Leaves interrupts to who had them before, and raises what has come meanwhile."""
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._came:
            self._raise(self._came.pop(), None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.is_held:
            self._came.append(number)
        elif not comes_late(number, frame):
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            sys.exit(128 + number)
        handler: Callable[[int, FrameType | None], Any] = self._before[number]
        handler(number, frame)
