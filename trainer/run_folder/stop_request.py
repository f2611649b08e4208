"""A training is asked to stop by a file in its run folder, which it looks for between two steps.

It looks when it logs and after evaluations, so that no checkpoint is cut short; a run that is started or resumed
forgets earlier requests.
"""

from contextlib import suppress
from pathlib import Path

STOP = ".stop"


def ask_to_stop(folder: Path) -> None:
    """Asks the training in a run folder to stop."""
    with suppress(OSError):
        (folder / STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Says whether somebody has asked."""
    return (folder / STOP).exists()


def forget_stop(folder: Path) -> None:
    """Forgets that somebody has asked."""
    (folder / STOP).unlink(missing_ok=True)
