"""Each command that is launched on a run folder has logs of its own, in `logs/COMMAND-TIME-HOST-PROCESS/`.

What its processes tell each other is there too: how far it is, its result, and the line that stopped it. So commands
that run beside each other on one run folder do not meet.
"""

import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.files.owned_files import not_through_links
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.owner import Owner

KEPT = 10
"""Commands whose logs stay, the newest."""

_OWNER = "owner.json"
_FILES = re.compile(
    r"(owner|progress|result|error|last-words-\d+)\.json|(driver|rank-\d+|tracking-\w+)\.log|messages\.txt|\.probe-\w+|\..+\.tmp"
)
_NAMES = re.compile(r"(train|evaluate|predict|calibrate|retrieve)-.+")
_MESSAGES = ("progress.json", "result.json", "messages.txt")
_DAY_SECONDS = 86_400.0
_count = itertools.count()
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ELOOP)


def command_name(command: str) -> str:
    """Returns a name for this use of a command that no other one has; all ranks of a torchrun have the same."""
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        meeting = f"{run} {os.environ['MASTER_ADDR']} {os.environ.get('MASTER_PORT')}"
        if run == "none" and os.environ["MASTER_ADDR"] in ("localhost", "127.0.0.1", "::1"):
            meeting += f" {socket.gethostname()}"
        return f"{command}-torchrun-{hashlib.sha256(meeting.encode()).hexdigest()[:12]}"
    used = next(_count)  # a program may ask for several within a second
    name = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}"
    return f"{name}-{used}" if used else name


@contextmanager
def own_logs(folder: RunFolder, name: str, *, leads: bool = True, reads: bool = False) -> Iterator[RunFolder]:
    """Yields the run folder with the logs of one command, in a folder of its own of that name; older ones are removed.

    leads: whether this process removes the files by which the command's processes spoke, in the end, and logs that are
    empty. reads: the command writes nothing but these; where the run folder cannot be written, they are in a temporary
    folder, which stays only where the command fails.
    """
    try:
        own = _made(folder.path / "logs", name)
    except OSError as error:
        if not reads or error.errno not in _NOT_WRITABLE:
            raise
        own = Path(tempfile.mkdtemp(prefix=f"shardrec-{name}-"))
        yield replace(folder, own_logs=own)
        shutil.rmtree(own, ignore_errors=True)
        return
    if leads:
        _prune(folder.path / "logs", own)
    try:
        yield replace(folder, own_logs=own)
    finally:
        for file in _MESSAGES if leads else ():
            with suppress(OSError):
                (own / file).unlink(missing_ok=True)
    if leads and not any(file.stat().st_size for file in own.glob("*.log")):
        _remove(own)


def _made(logs: Path, name: str) -> Path:
    """Makes the folder of a command, with a note of whose it is."""
    _check_no_link(logs)
    launched_together = "-torchrun-" in name
    own, count = logs / name, 1
    while True:
        try:
            own.mkdir(parents=True, exist_ok=launched_together)
            break
        except FileExistsError:
            count += 1
            own = logs / f"{name}-{count}"
    _check_no_link(own)
    note = own / _OWNER
    try:
        with about(note), open(note, "w", opener=not_through_links) as file:
            file.write(Owner.this_process(name).dump())
    except OSError:
        _remove(own)
        raise
    return own


def _check_no_link(place: Path) -> None:
    if place.is_symlink():
        raise OSError(errno.ELOOP, "a link, through which no logs are written", str(place))


def _prune(logs: Path, own: Path) -> None:
    """Removes all but the newest commands' logs; those of commands that may still run stay."""
    with suppress(OSError):
        notes = [note for note in logs.glob(f"*/{_OWNER}") if _NAMES.fullmatch(note.parent.name)]
        notes.sort(key=lambda note: note.stat().st_mtime)
        for note in notes[:-KEPT]:
            owner, age = Owner.parse(note.read_text(errors="replace")), time.time() - note.stat().st_mtime
            alive = owner.alive if owner else None
            if note.parent != own and not alive and (alive is False or age > _DAY_SECONDS):
                _remove(note.parent)


def _remove(own: Path) -> None:
    """Removes a command's logs, and nothing that was not written by one."""
    with suppress(OSError):
        if own.is_symlink():
            return
        if (ray := own / "ray").is_dir() and not ray.is_symlink():
            shutil.rmtree(ray, ignore_errors=True)
        for file in own.iterdir():
            if _FILES.fullmatch(file.name) and not file.is_dir():
                file.unlink()
        own.rmdir()
