"""A training is asked by files in its run folder to stop, or to end with a checkpoint.

It looks between two steps, so that no checkpoint is cut short: whether to stop when it logs and after evaluations,
whether to end every half second. A run that is started or resumed forgets earlier requests.
"""

import time
from contextlib import suppress
from pathlib import Path

STOP, END = ".stop", ".end"
REQUESTS = (STOP, END)
LOOKED_FOR_EVERY = 0.5  # seconds


def ask_to_stop(folder: Path) -> None:
    """Asks the training in a run folder to stop, with no more than the checkpoints that it has."""
    with suppress(OSError):
        (folder / STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Says whether somebody has asked."""
    return (folder / STOP).exists()


def ask_to_end(folder: Path) -> None:
    """Asks the training in a run folder to make a checkpoint, and end: for a launcher whose workers run elsewhere."""
    with suppress(OSError):
        (folder / END).touch()


class EndRequest:
    """An end request is looked for in a run folder now and then, at little cost however often it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._file, self._looked, self._made = folder / END, 0.0, False

    def is_made(self) -> bool:
        """Says whether somebody has asked, half a second ago or earlier."""
        now = time.monotonic()
        if not self._made and now - self._looked >= LOOKED_FOR_EVERY:
            self._looked, self._made = now, self._file.exists()
        return self._made


def forget_requests(folder: Path) -> None:
    """Forgets what somebody has asked for."""
    for name in REQUESTS:
        (folder / name).unlink(missing_ok=True)
