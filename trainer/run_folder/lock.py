"""A lock keeps a run folder for one training at a time; it is a file that says whose the folder is.

Files and their time stamps are all that is asked of the file system, since kernel locks do not hold on every shared
one. The lock of a process that has ended is taken over: on the same machine its end is seen at once, on another one by
a time stamp that stands still. What is kept in a store has a lock there besides (`store_lock.py`).
"""

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.files.owned_files import not_through_links, remove_if_empty
from shardrec.data_pipeline.stores.mirrors import mirrored
from shardrec.trainer.run_folder.heartbeat import HEARTBEAT
from shardrec.trainer.run_folder.owner import Owner
from shardrec.trainer.run_folder.store_lock import LOCK, check_store_owned, store_locked
from shardrec.trainer.run_folder.terminal import messages

SILENCE_SECONDS = 60.0
"""An owner on another machine whose time stamp stands still for so long, while it is watched, has ended."""

_POLL_SECONDS = 0.5
_SETTLING_SECONDS = 0.3
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # what file systems without hard links say
_count = itertools.count()


@contextmanager
def locked(folder: Path, command: str, *, named: str = "`run`") -> Iterator[None]:
    """Keeps `folder`, which is made where it is not there, for this process; `command` is the name of what it does.

    named: what the user names the folder by. One that was made, and is empty in the end, is removed. Raises UserError,
    in one line that names the owner, where another process has it.
    """
    is_new = not folder.exists()
    owner, file = Owner.this_process(command), folder / LOCK
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _take(file, owner, named)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written to: {error.strerror}; name another {named}, or mend that"
            ) from error
        HEARTBEAT.add(file)
        store = mirrored(folder)
        with store_locked(store, command, named) if store else nullcontext():
            yield
    finally:
        HEARTBEAT.remove(file)
        if _read(file) == owner.dump():
            file.unlink(missing_ok=True)
        if is_new:
            remove_if_empty(folder)


def check_free(folder: Path) -> None:
    """Raises UserError where a process of this machine that lives has the folder, before anything is prepared."""
    owner = Owner.parse(_read(folder / LOCK) or "")
    if owner is not None and owner.alive:
        raise _in_use(folder / LOCK, owner)


def check_owned(folder: Path, command: str) -> None:
    """Raises UserError where another command has taken a folder over that this one had locked.

    That only happens to who stood still.
    """
    if store := mirrored(folder):
        check_store_owned(store, command)
        return
    owner = Owner.parse(_read(folder / LOCK) or "")
    if owner is None:
        raise UserError(f"{folder / LOCK}: gone: another training took the folder over, or it was removed; this ends")
    if owner.command != command:
        raise UserError(f"{folder}: was taken over by {owner}, since this process gave no sign of life; this one ends")


def was_begun(folder: Path) -> bool:
    """Says whether a folder is one that a training took and was killed in before it had written its run file."""
    text = _read(folder / LOCK)
    others = [path for path in folder.iterdir() if path.name.partition(".")[2].partition(".")[0] != LOCK[1:]]
    if text:
        return Owner.parse(text) is not None or not others
    return all(p.name in ("logs", "checkpoints") and p.is_dir() and not any(p.iterdir()) for p in others)


def _take(file: Path, owner: Owner, named: str) -> None:
    with _one_at_a_time(file.parent):
        taken_over = False
        while not (_created(file, owner) and (not taken_over or _stays(file, owner))):
            text = _read(file)
            if text is not None:
                _check_dead(file, text, owner, named)
                _remove(file, text)
                taken_over = True


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets processes of this machine look at a folder's lock one after another, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stays(file: Path, owner: Owner) -> bool:
    """Says whether a lock is still there after who else had seen the dead one, on another machine, had their turn."""
    time.sleep(_SETTLING_SECONDS)
    return _read(file) == owner.dump()


def _created(file: Path, owner: Owner) -> bool:
    """Makes the file whole or not at all; returns False where there is one."""
    temporary = file.with_name(f"{LOCK}.{owner.host}-{owner.pid}-{next(_count)}.tmp")
    try:
        with about(temporary), open(temporary, "w", opener=not_through_links) as made:
            made.write(owner.dump())
        try:
            os.link(temporary, file)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with file.open("x") as made, about(file):
                made.write(owner.dump())
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(file: Path) -> str | None:
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: no lock of a training, but another thing in its place; remove it")
        return file.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_dead(file: Path, text: str, mine: Owner, named: str) -> None:
    """Returns once it is known that the owner has ended. Raises UserError where it lives."""
    owner = Owner.parse(text)
    alive = owner.alive if owner else None
    if alive:
        raise _in_use(file, owner, named)
    if alive is None and (owner is None or owner.command != mine.command):  # else: an earlier try of the same launch
        _watch(file, owner, named)


def _watch(file: Path, owner: Owner | None, named: str) -> None:
    """Watches the lock of a process elsewhere. Raises UserError at the first sign of life."""
    first, until = _stamp(file), time.monotonic() + SILENCE_SECONDS
    messages().print(
        f"{file.parent}: in use by {owner or 'an unknown process'}; waiting up to {SILENCE_SECONDS:.0f} s to see "
        "whether it still lives",
        soft_wrap=True,
        markup=False,
    )
    while first is not None and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        now = _stamp(file)
        if now is not None and now != first:
            raise _in_use(file, owner, named)
        first = now


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        with file.open() as opened:  # a network share looks anew at a file that is opened
            status = os.fstat(opened.fileno())
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def _in_use(file: Path, owner: Owner | None, named: str = "`run`") -> UserError:
    return UserError(
        f"{file.parent}: in use by {owner or 'an unknown process'}; wait until it is over or stop it, or name another "
        f"{named} (its lock is {file})"
    )


def _remove(file: Path, text: str) -> None:
    """Removes the lock that reads `text`; one that another process has made meanwhile is put back."""
    aside = file.with_name(f"{LOCK}.{os.getpid()}-{next(_count)}.old")
    try:
        file.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != text:
        with suppress(FileExistsError):
            try:
                os.link(aside, file)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                aside.rename(file)
    aside.unlink(missing_ok=True)
