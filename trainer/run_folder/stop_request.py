"""A training is asked by files in its run folder to stop, or to end with a checkpoint.

It looks between two steps, so that no checkpoint is cut short: whether to stop when it logs and after evaluations,
whether to end every half second. A run that is started or resumed forgets earlier requests.
"""

import time
from contextlib import suppress
from pathlib import Path

from shardrec.data_pipeline.stores.location import Location
from shardrec.data_pipeline.stores.mirrors import mirrored
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.run_folder.synced import forget

STOP, END = ".stop", ".end"
REQUESTS = (STOP, END)
LOOKED_FOR_EVERY = 0.5  # seconds
LOOKED_FOR_IN_STORES_EVERY = 10.0


def ask_to_stop(folder: Path) -> None:
    """Asks the training in a run folder to stop, with no more than the checkpoints that it has."""
    _ask(folder, STOP)


def ask_to_end(folder: Path) -> None:
    """Asks the training in a run folder to make a checkpoint, and end."""
    _ask(folder, END)


def _ask(folder: Path, name: str) -> None:
    """Leaves a file in a folder, and in the store of a mirror, since its training may run elsewhere."""
    with suppress(OSError):
        (folder / name).touch()
    if store := mirrored(folder):
        with suppress(StoreError):
            (store / name).write_text("")


class Request:
    """A request is looked for in a run folder now and then, at little cost however often it is asked for."""

    def __init__(self, folder: Path, name: str, *, elsewhere: bool = False, every: float = LOOKED_FOR_EVERY) -> None:
        """name: one of `REQUESTS`. every: seconds between two looks at a disk.

        elsewhere: another machine's launcher would ask, through the store that the folder is a mirror of.
        """
        store = mirrored(folder) if elsewhere else None
        self._file: Location = folder / name if store is None else store / name
        self._every = every if store is None else LOOKED_FOR_IN_STORES_EVERY
        self._looked, self._made = 0.0, False

    def is_made(self) -> bool:
        """Says whether somebody has asked, half a second ago or earlier."""
        now = time.monotonic()
        if not self._made and now - self._looked >= self._every:
            self._looked = now
            with suppress(StoreError):  # it is looked for again
                self._made = self._file.exists()
        return self._made


def forget_requests(folder: Path) -> None:
    """Forgets what somebody has asked for."""
    for name in REQUESTS:
        forget(folder / name)
