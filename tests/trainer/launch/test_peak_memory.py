import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shardrec.trainer.launch.peak_memory import MemoryMonitor, process_tree, pss_bytes

MIB = 1 << 20
pytestmark = pytest.mark.alone  # shared pages are divided among all who have them
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has run `code` (and said so) and then waits until its stdin closes."""
    text = f"import os, sys, mmap, time\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate()


class Counting(MemoryMonitor):
    """A monitor that can be waited for, however busy the machine is."""

    def __init__(self, *roots: int) -> None:
        self._taken = 0
        super().__init__(roots or None, interval=0.02, duty=0.5, on_sample=self._count)

    def _count(self, size: int) -> None:
        self._taken += 1

    def settle(self) -> None:
        """Waits for measurements, of which the last two began after this was called."""
        wanted = self._taken + 3
        while self._taken < wanted:
            time.sleep(0.01)


def test_pss_lies_between_the_private_and_the_resident_pages() -> None:
    with running("held = b'x' * (50 << 20)") as process:
        memory = psutil.Process(process.pid).memory_full_info()
        assert memory.uss - MIB <= pss_bytes(process.pid) <= memory.rss + MIB
        assert pss_bytes(process.pid) > 50 * MIB


def test_a_process_that_is_gone_counts_nothing() -> None:
    with running("") as process:
        pass
    assert pss_bytes(process.pid) == 0
    assert process_tree(process.pid) == set()


def test_a_process_that_ended_but_was_not_waited_for_counts_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert pss_bytes(process.pid) == 0
    process.wait()


def test_the_peak_is_the_largest_sum_over_processes_at_one_time() -> None:
    with Counting() as monitor:
        alone = monitor.peak_bytes
        with running("held = b'x' * (100 << 20)"), running("held = b'x' * (60 << 20)"):
            monitor.settle()
        together = monitor.peak_bytes
        with running("held = b'x' * (80 << 20)"):
            monitor.settle()
    assert 160 * MIB < together - alone < 220 * MIB
    assert monitor.peak_bytes - together < 10 * MIB  # 80 MiB after the others have ended is no new peak


def test_a_descendant_that_outlives_its_parent_still_counts() -> None:
    grandchild = "import os, time; held = b'x' * (90 << 20); print(os.getpid(), flush=True); time.sleep(300)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); sys.stdin.read()"
    with Counting() as monitor:
        alone = monitor.peak_bytes
        parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert parent.stdin is not None and parent.stdout is not None
        left_behind = int(parent.stdout.readline())
        monitor.settle()
        parent.stdin.close()
        parent.wait()
        monitor.peak_bytes = 0
        monitor.settle()
        os.kill(left_behind, signal.SIGKILL)
        parent.stdout.close()
    assert monitor.peak_bytes - alone > 85 * MIB


@linux
def test_pages_that_processes_share_count_once() -> None:
    shared = "block = mmap.mmap(-1, 120 << 20); block.write(b'x' * (120 << 20)); touched = block[:: 4096]\n"
    shared += "if os.fork() == 0: touched = block[:: 4096]; sys.stdin.read(); os._exit(0)\ntime.sleep(0.1)"
    with running(shared) as process, Counting(process.pid) as monitor:
        assert len(process_tree(process.pid)) == 2
        monitor.settle()
    assert 120 * MIB < monitor.peak_bytes < 190 * MIB


@linux
def test_shared_memory_files_count_whether_mapped_or_not_but_once() -> None:
    path = Path(f"/dev/shm/shardrec-test-{os.getpid()}")
    mapping = f"file = open({str(path)!r}, 'r+b'); block = mmap.mmap(file.fileno(), 0); touched = block[:: 4096]"
    try:
        with running("") as idle, Counting(idle.pid) as monitor:
            alone = monitor.peak_bytes
            path.write_bytes(b"x" * (100 * MIB))
            monitor.settle()
            unmapped = monitor.peak_bytes - alone
            with running(mapping) as process:
                monitor.add(process.pid)
                monitor.settle()
                mapped = monitor.peak_bytes - alone
        with Counting(os.getpid()) as later:
            before_it = later.peak_bytes
    finally:
        path.unlink()
    assert 99 * MIB < unmapped < 103 * MIB
    assert 100 * MIB < mapped < 140 * MIB
    own = sum(pss_bytes(process.pid) for process in process_tree(os.getpid()))
    assert before_it < own + 60 * MIB  # a file that was there before belongs to another


def test_processes_that_come_and_go_do_not_disturb_it() -> None:
    with MemoryMonitor(interval=0.001, duty=0.5) as monitor:
        for _ in range(20):
            subprocess.run(["true"], check=True)
    assert monitor.peak_bytes > 10 * MIB
    assert monitor.measure in ("pss", "rss")
