"""Measures a run's peak memory on this machine: of the launching process and all its descendants, Ray's daemons too.

At one moment it is the sum of the processes' Pss (/proc/PID/smaps_rollup: a page that n processes share counts 1/n in
each) plus the files in /dev/shm that appeared since and that none of them maps. The page cache does not count. Where
there is no smaps_rollup (macOS) it is the sum of resident sizes, which counts shared pages more than once;
`MemoryMonitor.measure` says which. On the other machines of a run its workers measure themselves (`unseen_memory`).
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from shardrec.trainer.launch.environment import Environment

INTERVAL_SECONDS = 2.0
DUTY = 0.05
UNSEEN_MEMORY = "unseen_memory_bytes"
"""The key, in a worker's result, of peak memory on machines that the launching process does not see."""

_SHARED = Path("/dev/shm")
_KIB = 1024


def process_tree(pid: int) -> set[psutil.Process]:
    """Returns the process and all its descendants that are alive; the empty set where there is none."""
    try:
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def pss_bytes(pid: int) -> int:
    """Returns a process's proportional set size, 0 once it is gone; the resident size where the system tells no Pss."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as lines:
            return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(b"Pss:")), 0)
    except ProcessLookupError:
        return 0
    except (FileNotFoundError, PermissionError):
        try:
            return psutil.Process(pid).memory_info().rss
        except psutil.Error:
            return 0


class MemoryMonitor:
    """A monitor measures every two seconds, in a thread, for as long as the context lasts.

    roots: processes that count (default: this one) with their descendants, also with those that outlive their parents
    duty: at most this part of the time is spent measuring, which walks all pages of all processes
    peak_bytes: the largest sum so far
    on_sample: is told each sum
    """

    def __init__(
        self,
        roots: Iterable[int] | None = None,
        interval: float = INTERVAL_SECONDS,
        duty: float = DUTY,
        on_sample: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._roots = set(roots) if roots is not None else {os.getpid()}
        self._interval, self._duty, self._on_sample = interval, duty, on_sample
        self._known: set[psutil.Process] = set()
        self._shared_before: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-monitor", daemon=True)
        self.measure: Literal["pss", "rss"] = "pss" if Path("/proc/self/smaps_rollup").exists() else "rss"
        self.peak_bytes = 0

    def add(self, pid: int) -> None:
        """Counts one more process and its descendants from now on."""
        self._roots.add(pid)

    def __enter__(self) -> "MemoryMonitor":
        self._shared_before = {inode for inode, _, _ in _shared_files()}
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

    def _watch(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            began = time.monotonic()
            self.sample()
            pause = max(self._interval, (time.monotonic() - began) / self._duty)

    def sample(self) -> None:
        """Measures now."""
        alive = set().union(*map(process_tree, tuple(self._roots)))
        orphans = {p for p in self._known - alive if p.is_running()}
        self._known = alive.union(orphans, *(process_tree(p.pid) for p in orphans))
        pids = [p.pid for p in self._known]
        size = sum(map(pss_bytes, pids)) + self._unmapped_bytes(pids)
        self.peak_bytes = max(self.peak_bytes, size)
        self._on_sample(size)

    def _unmapped_bytes(self, pids: Iterable[int]) -> int:
        """Returns the size in memory of the new files in /dev/shm that no process of the run maps."""
        new = [(path, size) for inode, path, size in _shared_files() if inode not in self._shared_before]
        if not new:
            return 0
        mapped = set().union(*map(_mapped_files, pids))
        return sum(size for path, size in new if path not in mapped)


@contextmanager
def unseen_memory(environment: "Environment") -> Iterator[Callable[[], int]]:
    """Measures workers that the launching process does not see: the first on each machine does so for all there.

    What is yielded returns the sum of these machines' peaks so far, on every rank. All ranks call both alike.
    """
    places = environment.gather((environment.unseen_on, os.getpid()))
    if not any(machine for machine, _ in places):
        yield lambda: 0
        return
    here = [pid for machine, pid in places if machine is not None and machine == environment.unseen_on]
    with MemoryMonitor(here) if here[:1] == [os.getpid()] else nullcontext() as monitor:

        def peak() -> int:
            if monitor is not None:
                monitor.sample()
            return sum(environment.gather(0 if monitor is None else monitor.peak_bytes))

        yield peak


def _shared_files() -> list[tuple[int, str, int]]:
    """Returns (inode, path, bytes in memory) of this user's files in /dev/shm."""
    files = []
    for folder, _, names in os.walk(_SHARED):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if status.st_uid == os.getuid():
                files.append((status.st_ino, path, status.st_blocks * 512))
    return files


def _mapped_files(pid: int) -> set[str]:
    """Returns the paths in /dev/shm that a process maps; unlinked ones end in ' (deleted)' and match none."""
    try:
        with open(f"/proc/{pid}/maps") as lines:
            return {line.rstrip("\n").split(maxsplit=5)[5] for line in lines if f" {_SHARED}/" in line}
    except OSError:
        return set()
