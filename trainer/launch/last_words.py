"""A worker's last words are one line that says where it ended, and of what; the traceback is in its log.

Workers leave them in the run folder. Those of one that only lost its peers count where nobody has better ones.
"""

import errno
import json
import re
import socket
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from shardrec.data_pipeline.errors import shortened
from shardrec.data_pipeline.stores.location import Location
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.launch.absent_workers import LateWorkersError, SilentWorkerError
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder

LOST_PEER = re.compile(
    r"closed by (remote )?peer|connection reset|broken pipe|remote process exited|socket closed", re.I
)
TIMED_OUT = re.compile(r"timed? ?out", re.I)
IN_COLLECTIVES = re.compile(r"gloo|pair closure|nccl|c10d|tcpstore|diststore|distributed", re.I)
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate|bad_alloc", re.I)
_FILES = "last-words-*.json"
PACKAGES = ("/torch/", "/torchrec/", "/ray/", "/site-packages/")


@dataclass(frozen=True)
class LastWords:
    """Last words are a line, and whether what it tells of follows from another worker's end."""

    line: str
    is_consequence: bool = False

    def leave(self, folder: RunFolder, rank: int) -> None:
        """Leaves them where the launcher finds them; a full disk, or a store that is away, has none."""
        file, text = folder.logs / f"last-words-{rank}.json", json.dumps(asdict(self))
        with suppress(OSError, StoreError):
            write_atomically(file, text)
            if folder.elsewhere:
                folder.stored(file).write_text(text)


def left(folder: RunFolder) -> Iterator[LastWords]:
    """Yields what workers left, here or in the run's store, causes before consequences."""
    found = dict[str, LastWords]()
    for file in _files(folder):
        with suppress(OSError, StoreError, ValueError, TypeError):
            found.setdefault(file.name, LastWords(**json.loads(file.read_text())))
    yield from sorted((found[name] for name in sorted(found)), key=lambda words: words.is_consequence)


def forget(folder: RunFolder) -> None:
    """Forgets what workers of an earlier try left."""
    for file in _files(folder):
        with suppress(StoreError):
            file.unlink(missing_ok=True)


def _files(folder: RunFolder) -> list[Location]:
    here = list[Location](folder.logs.glob(_FILES))
    if folder.store is None:
        return here
    try:
        return [*here, *folder.stored(folder.logs).glob(_FILES)]
    except StoreError:
        return here


def last_words(error: Exception, *, rank: int, world_size: int, timeout: float, log: Path) -> LastWords:
    """Returns a worker's last words on an error that no user's line stands for.

    timeout: seconds that a collective may take. log: where its traceback is.
    """
    cause, is_consequence = _cause(error, timeout)
    where = f"rank {rank} on {socket.gethostname()}" if world_size > 1 else ""
    steps = [note for note in getattr(error, "__notes__", ()) if note.startswith("step ")]
    place = ", ".join(filter(None, (where, *steps[:1])))
    return LastWords(f"{place + ': ' if place else ''}{cause}; its traceback is in {log}", is_consequence)


def way_on(logs: Path) -> str:
    """Returns what a line of a training's end has at its end: how to go on. logs: the command's own."""
    return "; --resume goes on from the last checkpoint" if logs.name.partition("-")[0] == "train" else ""


def is_of_waiting(error: Exception) -> bool:
    """Says whether an error is that of a collective that other workers did not come to in time."""
    said = f"{type(error).__name__} {error}"
    return bool(IN_COLLECTIVES.search(said) and TIMED_OUT.search(said))


def _cause(error: Exception, timeout: float) -> tuple[str, bool]:
    """Returns what happened, and whether it follows from what happened to another worker."""
    said = " ".join(str(error).split())
    if isinstance(error, SilentWorkerError | LateWorkersError):
        return said, isinstance(error, LateWorkersError)
    if getattr(error, "errno", None) == errno.EADDRINUSE or "EADDRINUSE" in said:
        return "the address where workers meet is taken by another process; name another port (MASTER_PORT)", False
    if IN_COLLECTIVES.search(f"{type(error).__name__} {said}"):
        if LOST_PEER.search(said):
            return "lost the connection to another worker, which has ended", True
        if TIMED_OUT.search(said):
            return (
                f"waited {timeout:g} s for other workers, in vain (launch.timeout); one may hang, or be far slower",
                True,
            )
    if isinstance(error, MemoryError) or NO_MEMORY.search(said):
        return f"out of memory ({shortened(said, 200)})", False
    return f"{type(error).__name__}: {shortened(said, 300)}{_place(error)}", False


def _place(error: Exception) -> str:
    """Returns the innermost place outside of libraries that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not any(part in frame.filename for part in PACKAGES)] or list(frames)
    return f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
