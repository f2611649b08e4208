"""Files and folders that appear complete or not at all, whatever happens to the process or the machine.

They are made under another name beside their place (a leading dot, then host, process and a count, so that no two
writers meet), put on disk, and only then renamed.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import NO_ROOM, about
from shardrec.data_pipeline.files.interrupts import Interrupts
from shardrec.data_pipeline.files.owned_files import MARKER, Marker, mark, remove_made, remove_owned
from shardrec.data_pipeline.files.processes import alive, here

_count = itertools.count()
_looked_through: set[Path] = set()  # folders in which nothing abandoned is left
_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems say whose folders cannot be synced


@contextmanager
def whole_file(path: str | Path, *, synced: bool = True) -> Iterator[Path]:
    """Yields the path of a file to be written, which then replaces `path`; that stays as it was if anything is raised.

    synced: a crash of the machine loses neither the old content nor the new one.
    """
    path = Path(path)
    _remove_abandoned_files(path.parent)
    temporary = path.with_name(f".{path.name}.{_writer()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with about(path):
            temporary.open("x").close()  # else who writes it would follow a link that waits there
            yield temporary
            if synced:
                sync(temporary)
        temporary.replace(path)
        if synced:
            sync(path.parent)
    except OSError as error:
        if str(error.filename) == str(temporary):  # a name that nobody has asked for
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(
    out: Path,
    check: Callable[[Path], None],
    *,
    listed: bool = False,
    launch: str | None = None,
    leads: bool = True,
) -> Iterator[Path]:
    """Yields a folder to be filled, which then becomes `out`; if anything is raised, it is removed and `out` as it was.

    check: raises UserError for an `out` that must not be replaced; asked at the start and at the end. listed: the
    folder gets a list of its files (`owned_files.py`), and those that a list in `out` names are replaced; else `out`
    must be empty then, or not there. launch: what the processes have in common that fill one folder together, None:
    there is one process; the one that leads puts it in its place.

    Raises UserError for a place that cannot be written to, and for a full disk.
    """
    check(out)
    place = out.resolve()
    _check_renamable(out, place)
    if leads:
        _take_up_abandoned(place)
    folder = place.with_name(f".{place.name}.partial-{launch or _writer()}")
    interrupts = Interrupts(leave_termination=launch is not None)  # torchrun's ranks may be inside a collective
    is_made = False
    try:
        with _unwritable(out):
            folder.mkdir(parents=True, exist_ok=launch is not None)
            is_made = leads
            if folder.is_symlink():
                raise UserError(f"{folder}: a link, where this command is to write; remove it")
            if leads:
                _open_as(place, folder)
                mark(folder, complete=False)
        interrupts.release()
        yield folder
        if leads:
            if listed:
                mark(folder, complete=True)
            else:
                (folder / MARKER).unlink()
            _sync_all(folder)
            check(out)
            _put(folder, place, listed)
            sync(place.parent)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(f"{out}: no space left on the device; nothing was kept") from error
    finally:
        interrupts.is_held = True
        if is_made:
            remove_made(folder)
        interrupts.end()


@contextmanager
def _unwritable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{out}: cannot write there: {error.strerror}: {error.filename}") from None


def _check_renamable(out: Path, place: Path) -> None:
    """Raises UserError where another folder cannot take the place of an empty one: a shell, or a disk, is in it."""
    for path, noun in ((Path.cwd(), "the working directory"), (place if place.is_mount() else None, "a disk's mount")):
        if path is not None and path.resolve().is_relative_to(place):
            raise UserError(f"{out}: not replaced, since it is or holds {noun}; name a new folder in it")


def _open_as(place: Path, folder: Path) -> None:
    """Gives a folder the group and the permissions of the one whose place it is to take, if there is one."""
    if place.is_dir():
        status = place.stat()
        with suppress(OSError):
            os.chown(folder, -1, status.st_gid)
        folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRWXU)


def sync(path: Path) -> None:
    """Puts a file, or a folder's list of files, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for inside, _, files in os.walk(folder):
        for file in files:
            sync(Path(inside, file))
        sync(Path(inside))


def _put(folder: Path, place: Path, listed: bool) -> None:
    """Renames `folder` to `place`; unless `listed`, the system itself refuses where a file has come in meanwhile."""
    if not (listed and place.exists() and any(place.iterdir())):
        folder.rename(place)
        return
    old = folder.with_name(f"{folder.name}-old")
    place.rename(old)
    try:
        folder.rename(place)
    except BaseException:
        old.rename(place)
        raise
    remove_owned(old)
    if old.exists():  # something came in between the check and here
        raise UserError(f"{place}: replaced, but what came in meanwhile was not: it is in {old}; move it elsewhere")


def _writer() -> str:
    return f"{here()}-{os.getpid()}-{next(_count)}"


def _remove_abandoned_files(folder: Path) -> None:
    """Removes what killed processes of this host left behind in a folder, once: there may be thousands of files."""
    if folder in _looked_through:
        return
    _looked_through.add(folder)
    pattern = re.compile(r"\..+\." + re.escape(here()) + r"-(\d+)-\d+\.tmp")
    for left in folder.glob(".*.tmp"):
        match = pattern.fullmatch(left.name)
        if match and not alive(int(match[1])) and left.is_file() and not left.is_symlink():
            left.unlink(missing_ok=True)


def _take_up_abandoned(place: Path) -> None:
    """Removes what killed processes of this host left behind of the same folder, or puts it back where it belongs."""
    of_host = re.compile(re.escape(f".{place.name}.partial-{here()}-") + r"(\d+)-\d+(-old)?")
    for left in place.parent.glob(f".{_literally(place.name)}.partial-*"):
        if left.is_symlink() or (marker := Marker.read(left)) is None:
            continue
        writer = of_host.fullmatch(left.name)
        if writer and (writer[2] or marker.files is not None):  # killed about the renames: the marker names nobody
            abandoned = not alive(int(writer[1]))
        else:
            abandoned = marker.files is None and marker.abandoned
        if abandoned and writer and writer[2] and not place.exists():
            left.rename(place)  # this is what was to be replaced
        elif abandoned:
            remove_owned(left)


def _literally(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
