"""A heartbeat keeps the time stamps of this process's marks fresh, so that other machines see that it lives."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from shardrec.data_pipeline.files.owned_files import not_through_links
from shardrec.data_pipeline.stores.location import Location
from shardrec.data_pipeline.stores.retries import StoreError

BEAT_SECONDS = 5.0
STORE_BEAT_SECONDS = 15.0
"""Between beats in a store, each of which is a request that is paid for."""


def write_mark(mark: Location, text: str) -> None:
    """Writes a mark, not through a link."""
    if isinstance(mark, Path):
        with open(mark, "w", opener=not_through_links) as file:
            file.write(text)
    else:
        mark.write_text(text)


class Heartbeat:
    """A heartbeat is one thread for all marks of a process on disks, and one for those in stores.

    A beat costs one system call a mark on a disk; a mark in a store is written anew, which another one's delay must not
    keep from being in time.
    """

    def __init__(self) -> None:
        self._marks: dict[Location, str] = {}
        self._beating: set[bool] = set()
        self._process: int | None = None

    def add(self, mark: Location, text: str = "") -> None:
        """Keeps a mark's time stamp fresh from now on, until it is removed or the process ends.

        text: what a mark in a store says.
        """
        if self._process != os.getpid():  # a fork has the marks, but not the threads
            self._process, self._marks, self._beating = os.getpid(), {}, set()
        self._marks[mark] = text
        if (on_disk := isinstance(mark, Path)) not in self._beating:
            self._beating.add(on_disk)
            paced = (BEAT_SECONDS, self._beat_on_disks) if on_disk else (STORE_BEAT_SECONDS, self._beat_in_stores)
            threading.Thread(target=_every, args=paced, name="heartbeat", daemon=True).start()

    def remove(self, mark: Location) -> None:
        """Leaves a mark alone."""
        self._marks.pop(mark, None)

    def _beat_on_disks(self) -> None:
        for mark in tuple(self._marks):
            if isinstance(mark, Path):
                with suppress(OSError):  # removed by hand, or a share that is away for a moment
                    os.utime(mark)

    def _beat_in_stores(self) -> None:
        for mark, text in tuple(self._marks.items()):
            if not isinstance(mark, Path):
                with suppress(OSError, StoreError):
                    mark.write_text(text)
                    if mark not in self._marks:  # let go meanwhile
                        mark.unlink(missing_ok=True)


def _every(seconds: float, beat: Callable[[], None]) -> None:
    while True:
        time.sleep(seconds)
        beat()


HEARTBEAT = Heartbeat()
"""The one of this process."""
