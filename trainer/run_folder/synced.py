"""A run in a store has a mirror on each machine that works on it: its small files, and what is appended to.

Checkpoints go to the store itself. All else is written to the mirror, as in any run folder, and sent when a run begins,
before each checkpoint and in the end; a command fetches what it reads. A file that was fetched has the store's time.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from shardrec.data_pipeline.files.streams import fetch_file, send_file
from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.data_pipeline.stores.location import Status, StorePath
from shardrec.data_pipeline.stores.mirrors import mirrored
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.run_folder.owner import Owner
from shardrec.trainer.run_folder.run_files import CHECKPOINTS
from shardrec.trainer.run_folder.store_lock import LOCK

KEPT_LOGS = 10
"""Commands whose logs stay in a store, the newest."""

_RESOLUTION = 1_000_000_000
"""Nanoseconds by which an object may be younger than its time says."""

_NOT_SENT = (CHECKPOINTS,)
_OF_OTHERS = re.compile(r".*/(tracking/wandb|logs/[^/]*/ray)")
_RUN_FILES = ("config.yaml", "stages.yaml", "compare.csv")
"""By one of these a folder of a store is known for a run's or a comparison's; another one is not looked into."""

_NOT_FETCHED = (CHECKPOINTS, "logs", "tensorboard")  # what no command reads
_PASSING = ("progress.json", "result.json", "error.json", "messages.txt", "owner.json")
_seen: dict[Path, tuple[int, int]] = {}
"""Size and time that files had when this process fetched or sent them."""
_known: dict[Path, Status] = {}
"""How the objects of files looked then."""


@contextmanager
def in_step(folder: Path) -> Iterator[None]:
    """Fetches what a mirror's store has, and sends what it has in the end, where there is a run in it then.

    For who has locked the folder. Raises StoreError as `tried`, but not on the way out from another error.
    """
    fetch(folder, is_ours=True)
    failed = True
    try:
        yield
        failed = False
    finally:
        if any(_files(folder, (*_NOT_SENT, "logs"))):  # else nothing came of it
            with suppress(StoreError) if failed else nullcontext():
                push(folder, is_last=True)
                _prune_logs(folder)


def fetch(folder: Path, *, is_ours: bool = False) -> None:
    """Brings a mirror up to date with its store; nothing where the folder is no mirror, or a training here writes it.

    What the store has no more is removed. is_ours: no other training does. Raises StoreError as `tried`.
    """
    store = mirrored(folder)
    if store is None or (not is_ours and _is_written_here(folder)):
        return
    at_top = {path.name for path in store.listed()}
    there = dict(_objects(store, folder, _NOT_FETCHED)) if at_top.intersection(_RUN_FILES) else {}
    for path, (source, status) in there.items():
        if not _is_alike(path, status):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, synced=False) as temporary:
                fetch_file(source, temporary)
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        _seen[path], _known[path] = (status.st_size, status.st_mtime_ns), status
        if path.name == "config.yaml":
            (path.parent / CHECKPOINTS).mkdir(exist_ok=True)  # by which a run folder is known
    for path in _files(folder, _NOT_FETCHED):
        if path not in there:
            path.unlink(missing_ok=True)
            _seen.pop(path, None)


def fetch_file_of(path: Path) -> None:
    """Brings one file of a mirror up to date, where the store has it. Raises StoreError as `tried`."""
    if store := mirrored(path):
        with suppress(FileNotFoundError), whole_file(path, synced=False) as temporary:
            fetch_file(store, temporary)
            _seen.pop(path, None)


def push(folder: Path, *, is_last: bool = False) -> None:
    """Sends what has changed in a mirror to its store; nothing where the folder is no mirror.

    is_last: by a launcher in the end: what a worker has sent from elsewhere stays, though one wrote here before.
    Raises StoreError as `tried`.
    """
    for path in _files(folder, _NOT_SENT) if mirrored(folder) else ():
        if _look(path) != _seen.get(path) and not (is_last and _is_replaced(path)):
            send(path)


def send(path: Path) -> None:
    """Sends one file, where it is in a mirror. Raises StoreError as `tried`."""
    if store := mirrored(path):
        now = _look(path)
        send_file(path, store)
        _seen[path] = now  # at once: what was sent can be withdrawn
        _known.pop(path, None)
        with suppress(StoreError, FileNotFoundError):
            _known[path] = store.stat()


def forget(path: Path) -> None:
    """Removes a file, and where it is in a mirror from the store too. Raises StoreError as `tried`."""
    path.unlink(missing_ok=True)
    _seen.pop(path, None)
    _known.pop(path, None)
    if store := mirrored(path):
        store.unlink(missing_ok=True)


def withdraw(folder: Path) -> None:
    """Removes from a store what this process sent there, for a run that came to nothing."""
    if (store := mirrored(folder)) is None:
        return
    for path in [path for path in _seen if path.is_relative_to(folder)]:
        (store / path.relative_to(folder).as_posix()).unlink(missing_ok=True)
        del _seen[path]
        _known.pop(path, None)
    for inside, status in store.listed().items():
        if status is None and not any(of is not None for of in inside.listed(deep=True).values()):
            inside.remove()  # what pyarrow marks a folder by


def holds_other_things(folder: Path) -> bool:
    """Says whether a mirror's store has something in its place that is neither a run nor a lock."""
    store = mirrored(folder)
    inside = {path.name for path in store.listed()} if store else set()
    return not inside.intersection(_RUN_FILES) and any(not name.startswith(LOCK) for name in inside)


def _prune_logs(folder: Path) -> None:
    """Removes all but the newest commands' logs from a store, by the times in their names."""
    if (store := mirrored(folder)) is None:
        return
    inside = (store / "logs").listed().items()
    commands = sorted((path for path, status in inside if status is None), key=_time_in_name)
    for path in commands[:-KEPT_LOGS]:
        path.remove()


def _time_in_name(path: StorePath) -> str:
    return path.name.partition("-")[2]


def _objects(
    store: StorePath, folder: Path, left_out: tuple[str, ...]
) -> Iterator[tuple[Path, tuple[StorePath, Status]]]:
    """Yields the mirrors of the objects in a folder of the store, each with the object and its status."""
    for path, status in store.listed().items():
        inside = folder / path.name
        if status is None and path.name not in left_out:
            yield from _objects(path, inside, left_out)
        elif status is not None and not path.name.startswith("."):
            yield inside, (path, status)


def _files(folder: Path, left_out: tuple[str, ...]) -> Iterator[Path]:
    """Yields the files of a mirror that are to stay, at any depth."""
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in left_out and not _is_of_others(Path(inside, name))]
        for name in names:
            path = Path(inside, name)
            if not name.startswith(".") and name not in _PASSING and path.is_file() and not path.is_symlink():
                yield path


def _is_of_others(folder: Path) -> bool:
    return folder.is_symlink() or _OF_OTHERS.fullmatch(folder.as_posix()) is not None


def _look(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_replaced(path: Path) -> bool:
    """Says whether another process has sent a file after it was written here."""
    store = mirrored(path)
    assert store is not None
    try:
        now = store.stat()
    except FileNotFoundError:
        return False
    return now != _known.get(path) and now.st_mtime_ns + _RESOLUTION > path.stat().st_mtime_ns


def _is_alike(path: Path, status: Status) -> bool:
    return path.is_file() and _look(path) == tuple(status)


def _is_written_here(folder: Path) -> bool:
    """Says whether a process of this machine trains in a mirror, or in one around it, which is newer then."""
    for around in (folder, *folder.parents):
        if mirrored(around) is None:
            return False
        try:
            owner = Owner.parse((around / LOCK).read_text(errors="replace"))
        except OSError:
            continue
        if owner is not None and owner.alive:
            return True
    return False
