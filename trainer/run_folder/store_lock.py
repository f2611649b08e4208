"""The lock of a run in a store is an object that says whose the run is, beside one that its owner keeps writing anew.

pyarrow has no conditional writes, so that a lock is written, and read back after a pause: of several who come at once
the last writer has it, and the others see that. Whoever stood still for longer than the pause between looking and
writing may take a lock from its owner, who finds out before its next checkpoint is complete, and ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import StorePath
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.run_folder.heartbeat import HEARTBEAT
from shardrec.trainer.run_folder.owner import Owner
from shardrec.trainer.run_folder.terminal import messages

LOCK = ".lock"
SILENCE_SECONDS = 60.0
"""An owner whose sign of life is older than this, by the store's clock, has ended."""

_SETTLING_SECONDS = 2.0
_POLL_SECONDS = 1.0


@contextmanager
def store_locked(folder: StorePath, command: str, named: str = "`run`") -> Iterator[None]:
    """Keeps a folder of a store for this process. Raises UserError, in a line that names the owner, where it is taken.

    named: what the user names the folder by. The lock of an owner who has ended is taken over.
    """
    owner = Owner.this_process(command)
    beat = _sign(folder, owner)
    try:
        beat.write_text(owner.dump())
        HEARTBEAT.add(beat, owner.dump())
        _take(folder, owner, named)
        yield
    finally:
        HEARTBEAT.remove(beat)
        with suppress(StoreError):
            if _read(folder / LOCK) == owner.dump():
                (folder / LOCK).unlink(missing_ok=True)
            beat.unlink(missing_ok=True)


def check_store_owned(folder: StorePath, command: str) -> None:
    """Raises UserError where the lock of a command is another one's by now, or gone."""
    owner = Owner.parse(_read(folder / LOCK) or "")
    if owner is None or owner.command != command:
        by = f"by {owner}" if owner else "and left again"
        raise UserError(f"{folder}: was taken over {by}, since this process gave no sign of life; this one ends")


def _sign(folder: StorePath, owner: Owner) -> StorePath:
    """Returns the object by which an owner shows that it lives."""
    return folder / f"{LOCK}.{owner.host}-{owner.pid}-{owner.started}"


def _read(lock: StorePath) -> str | None:
    try:
        return lock.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _take(folder: StorePath, owner: Owner, named: str) -> None:
    lock = folder / LOCK
    while True:
        text = _read(lock)
        if text == owner.dump():
            return
        if text is not None:
            _check_dead(folder, text, owner, named)
        lock.write_text(owner.dump())
        time.sleep(_SETTLING_SECONDS)


def _check_dead(folder: StorePath, text: str, mine: Owner, named: str) -> None:
    """Returns once it is known that the owner has ended. Raises UserError where it lives."""
    owner = Owner.parse(text)
    alive = owner.alive if owner else None
    if alive is False or (owner is not None and owner.command == mine.command):  # an earlier try of the same launch
        _forget(folder, owner)
        return
    first, is_told = _stamp(folder, owner), False
    while not alive:
        now = _stamp(folder, owner)
        _sign(folder, mine).write_text(mine.dump())
        here = _stamp(folder, mine)
        if now is None or (here is not None and here - now > SILENCE_SECONDS):
            _forget(folder, owner)
            return
        alive = now != first
        if not alive and not is_told:
            is_told = True
            line = f"waiting up to {SILENCE_SECONDS:.0f} s to see whether it still lives"
            messages().print(f"{folder}: in use by {_named(owner)}; {line}", soft_wrap=True, markup=False)
        time.sleep(_POLL_SECONDS)
    raise UserError(
        f"{folder}: in use by {_named(owner)}; wait until it is over or stop it, or name another {named} (its lock is "
        f"{folder / LOCK})"
    )


def _named(owner: Owner | None) -> str:
    return str(owner or "an unknown process")


def _stamp(folder: StorePath, owner: Owner | None) -> float | None:
    """Returns when an owner last gave a sign of life, by the store's clock; None where there is no trace of it."""
    for mark in (*([_sign(folder, owner)] if owner else []), folder / LOCK):
        with suppress(FileNotFoundError):
            return mark.stat().st_mtime
    return None


def _forget(folder: StorePath, owner: Owner | None) -> None:
    if owner is not None:
        _sign(folder, owner).unlink(missing_ok=True)
