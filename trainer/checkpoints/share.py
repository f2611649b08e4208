"""A share is what one worker writes of a checkpoint: copies while training goes on, and the rest at once."""

import threading
from collections.abc import Sequence
from typing import Protocol

from shardrec.data_pipeline.files.streams import settle
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import Entry


class Unwritten(Protocol):
    """An unwritten file is one of tables, of id maps, or the tower's."""

    @property
    def path(self) -> Location:
        """Returns where it will be."""

    @property
    def is_copied(self) -> bool:
        """Says whether no step changes what it is written from."""

    def written(self) -> Entry:
        """Writes it; returns what the manifest says of it."""


class Share:
    """A share is written from when it is made until `wait` returns. Its thread exchanges nothing with other workers.

    error: what writing has come to, so far.
    """

    def __init__(self, files: Sequence[Unwritten]) -> None:
        self.error: Exception | None = None
        self._files, self._entries = files, dict[int, Entry]()
        self._given_up = False
        self._thread: threading.Thread | None = None
        later = [number for number, file in enumerate(files) if file.is_copied]
        self._write([number for number in range(len(files)) if number not in later])
        if later and self.error is None:
            self._thread = threading.Thread(target=self._write, args=(later,), name="checkpoint", daemon=True)
            self._thread.start()

    @property
    def entries(self) -> list[Entry]:
        """Returns what the manifest says of the files that are written, in the order of all."""
        return [self._entries[number] for number in sorted(self._entries)]

    @property
    def is_written(self) -> bool:
        """Says whether there is nothing left to wait for: all is written, or there is an error."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Waits until all is written, or there is an error."""
        if self._thread is not None:
            self._thread.join()

    def give_up(self) -> None:
        """Has no further file written than the one that is under way."""
        self._given_up = True

    def _write(self, numbers: Sequence[int]) -> None:
        try:
            for number in numbers:
                if self._given_up:
                    return
                self._entries[number] = self._files[number].written()
            for folder in {self._files[number].path.parent for number in numbers}:
                settle(folder)
        except Exception as error:
            self.error = error
