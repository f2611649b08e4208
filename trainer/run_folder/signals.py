"""A process that is told to end says so in a line; a training first makes its step and a checkpoint.

What is imported here takes no time, since signals may come before anything else is there.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from shardrec.data_pipeline.files.late_signals import comes_late


class Terminated(KeyboardInterrupt):
    """SIGTERM ends a process as Ctrl-C does: with what that puts away, and says."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Raises `Terminated`, once nothing is being imported: what SIGTERM does in a command."""
    if not comes_late(number, frame):
        raise Terminated


def raise_interrupted(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, once nothing is being imported: what SIGINT does in a command."""
    if not comes_late(number, frame):
        raise KeyboardInterrupt


def in_words(interrupt: KeyboardInterrupt) -> str:
    """Returns what happened to a process, in a word."""
    return "terminated" if isinstance(interrupt, Terminated) else "interrupted"


def end_of(interrupt: KeyboardInterrupt) -> NoReturn:
    """Ends the process at once, with the status that shells have for the signal, and with a line if none was said."""
    number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
    if not getattr(interrupt, "is_said", False):
        print(f"shardrec: {in_words(interrupt)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)


@contextmanager
def ended_in_a_line() -> Iterator[None]:
    """Has signals end the process with a line while this lasts: from a command's first import on."""
    signal.signal(signal.SIGTERM, raise_terminated)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # shells have background jobs ignore it
        signal.signal(signal.SIGINT, raise_interrupted)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        end_of(interrupt)


@contextmanager
def termination_deferred(on_first: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Has the first SIGTERM only noted while this lasts, and a second one raise `Terminated`.

    Yields what says whether one came. on_first: is called when it comes. Where SIGTERM is not this command's, as in a
    program that calls us, and in other threads than the main one, nothing is changed. After an error there is nothing
    to be told any more.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not raise_terminated:
        yield lambda: False
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise_terminated(number, frame)
        came = True
        on_first()

    afterwards: Callable[..., Any] | signal.Handlers = raise_terminated
    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    except Exception:  # it is ending: torchrun tells all ranks to as soon as the first one is gone
        afterwards = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, afterwards)
