"""Workers leave a run between two steps: ended by whoever started it, or to come back as another number of them.

Each worker says what it was asked for; the sum of that travels with each step's losses, so that all leave after the
same step, with a checkpoint of it.
"""

import threading
from collections.abc import Callable
from enum import IntEnum

_asked = threading.Event()
_signs: list[Callable[[], bool]] = []


class Leaving(IntEnum):
    """Leaving is what workers were asked for; the larger number counts where they were asked for both."""

    NO = 0
    REGROUP = 1
    END = 2


class RegroupError(Exception):
    """The error ends a worker whose group is about to be started again, with as many workers as there is room for."""

    def __init__(self, step: int = 0) -> None:
        super().__init__(f"left after step {step}, for a group of another size")


def ask_to_regroup() -> None:
    """Asks the worker in this process to leave; called there, by who wants a group of another size."""
    _asked.set()


def watch_for(sign: Callable[[], bool]) -> None:
    """Takes a sign for a reason to leave, from now on: say that this machine is about to be taken away."""
    _signs.append(sign)


def is_to_regroup() -> bool:
    """Says whether the worker in this process was asked to leave, or has a reason to."""
    return _asked.is_set() or any(sign() for sign in _signs)
