"""The servers of a local Ray are watched: without them Ray waits for a minute, and then ends the process wordlessly."""

import os
import signal
import threading
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


class _Watch:
    """A watch notices the end of one of the servers that this process started, and interrupts the main thread."""

    def __init__(self) -> None:
        node: Any = ray._private.worker._global_node
        self._servers = {n: [p.process for p in node.all_processes.get(n, ())] for n in SERVERS}
        self._over = threading.Event()
        self.ended: str | None = None
        self._thread = threading.Thread(target=self._look, name="shardrec-ray-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOKS_EVERY):
            ended = [name for name, of_one in self._servers.items() if any(p.poll() is not None for p in of_one)]
            if ended:
                self.ended = ended[0]
                end_children()
                os.kill(os.getpid(), signal.SIGUSR1)
                return


def end_children() -> None:
    """Ends all processes that this one has started, and theirs."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def watched(logs: Path) -> Iterator[None]:
    """Raises LoggedError in this thread, the main one, where a server of the local Ray ends while this lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise RuntimeError("Ray is gone")

    before = signal.signal(signal.SIGUSR1, interrupt)
    watch.start()
    try:
        yield
    except Exception:  # Ray's own code may have made another one of the interrupt
        if watch.ended is None:
            raise
        line = f"the {watch.ended} process of the local Ray has ended, and with it all workers; its words are in"
        raise LoggedError(f"{line} {logs}/driver.log{way_on(logs)}") from None
    finally:
        watch.stop()
        signal.signal(signal.SIGUSR1, before)
