"""A heartbeat keeps the time stamps of this process's marks fresh, so that other machines see that it lives."""

import os
import threading
from contextlib import suppress
from pathlib import Path

BEAT_SECONDS = 5.0


class Heartbeat:
    """A heartbeat is one thread for all marks of a process; it costs one system call a mark and beat."""

    def __init__(self) -> None:
        self._marks: set[Path] = set()
        self._process: int | None = None

    def add(self, mark: Path) -> None:
        """Keeps a file's time stamp fresh from now on, until it is removed or the process ends."""
        self._marks.add(mark)
        if self._process != os.getpid():  # a fork has the marks, but not the thread
            self._process = os.getpid()
            self._marks = {mark}
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def remove(self, mark: Path) -> None:
        """Leaves a file alone."""
        self._marks.discard(mark)

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            for mark in tuple(self._marks):
                with suppress(OSError):  # removed by hand, or a share that is away for a moment
                    os.utime(mark)


HEARTBEAT = Heartbeat()
"""The one of this process."""
