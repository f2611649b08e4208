"""The servers of a local Ray are watched: without them Ray waits for a minute, and then ends the process wordlessly.

For one that is frozen it waits for ever. The main thread of either server runs several times a second, whatever there
is to do: one that has not run for a while is frozen.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil
import ray

from shardrec.data_pipeline.errors import LoggedError
from shardrec.trainer.launch.last_words import way_on

SERVERS = ("gcs_server", "raylet")
LOOKS_EVERY = 0.5  # seconds
LEAST_PATIENCE = 5.0  # a machine with more to do than it has cores lets servers wait, too


class _Server:
    """A server is one process of Ray's, and for how long its main thread has not run."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self._runs, self._still = 0, 0.0

    @property
    def is_stopped(self) -> bool:
        """Says whether somebody has stopped the process."""
        with suppress(psutil.Error):
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        return False

    def fate(self, passed: float, patience: float) -> str | None:
        """Returns in words what became of it; None where it runs. passed: seconds since it was asked last."""
        if self._process.poll() is not None:
            return "has ended"
        with suppress(psutil.Error):
            runs = sum(psutil.Process(self._process.pid).num_ctx_switches())
            self._still = self._still + min(passed, 2 * LOOKS_EVERY) if runs == self._runs else 0.0
            self._runs = runs
        return f"is frozen: it has not run for {patience:g} s (launch.timeout)" if self._still > patience else None


class _Watch:
    """A watch notices what becomes of the servers that this process started, and interrupts the main thread.

    patience: seconds for which a server may not run.
    """

    def __init__(self, patience: float) -> None:
        node: Any = ray._private.worker._global_node
        self._servers = {n: [_Server(p.process) for p in node.all_processes.get(n, ())] for n in SERVERS}
        self._patience = patience
        self._over = threading.Event()
        self.found: str | None = None
        self._thread = threading.Thread(target=self._look, name="shardrec-ray-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def end_frozen(self) -> None:
        """Ends all of Ray where a server is stopped: it would be waited for in vain as it is taken down."""
        if any(server.is_stopped for of_one in self._servers.values() for server in of_one):
            end_children()

    def _look(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(LOOKS_EVERY):
            now = time.monotonic()
            fates = [(n, s.fate(now - looked, self._patience)) for n, of_one in self._servers.items() for s in of_one]
            looked = now
            if found := [f"the {name} process of the local Ray {fate}" for name, fate in fates if fate]:
                self.found = found[0]
                end_children()
                os.kill(os.getpid(), signal.SIGUSR1)
                return


def end_children() -> None:
    """Ends all processes that this one has started, and theirs."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def watched(logs: Path, timeout: float) -> Iterator[None]:
    """Raises LoggedError in this thread, the main one, where a server of the local Ray ends, or freezes, meanwhile.

    timeout: seconds after which it is taken to be frozen, if they are not very few.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(max(timeout, LEAST_PATIENCE))

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise RuntimeError("Ray is gone")

    before = signal.signal(signal.SIGUSR1, interrupt)
    watch.start()
    try:
        yield
    except Exception:  # Ray's own code may have made another one of the interrupt
        if watch.found is None:
            raise
        line = f"{watch.found}, and with it all workers have ended; its words are in"
        raise LoggedError(f"{line} {logs}/driver.log{way_on(logs)}") from None
    finally:
        watch.stop()
        watch.end_frozen()
        signal.signal(signal.SIGUSR1, before)
