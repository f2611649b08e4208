"""Workers show signs of life through the store by which they met: one that is frozen is noticed, and named.

A worker that is stopped, or whose machine is gone without a word, keeps its connections: nobody would hear of it.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

from shardrec.trainer.launch.absent_workers import SilentWorkerError

LONGEST_BEAT = 5.0
BEATS = 8
"""A worker shows this many signs, at least, in the seconds after which it would be taken for frozen."""

MOST_AT_ONCE = 2.0  # beats of silence that one look counts: whoever looks may have been stopped itself


class Sign(NamedTuple):
    """A sign says how many its worker has shown, on which host it is, and what it is doing."""

    shown: int = 0
    host: str = "an unknown host"
    doing: str = "starting"


class Signs:
    """Signs are shown by a thread of each worker, which also looks at others: the first one at all, and all at it.

    Where the store does not answer, the first worker is silent, who keeps it. doing: what this worker says that it is
    doing; others tell it where they name this one.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout: float) -> None:
        self.doing: Callable[[], str] = lambda: "starting"
        self.beat, self.timeout = min(LONGEST_BEAT, timeout / BEATS), timeout
        self._store, self._rank = store.clone(), rank  # a connection of its own, on which others need not wait
        self._store.set_timeout(timedelta(seconds=timeout))
        self.others = list(range(1, world_size)) if rank == 0 else [0]
        self._shown = self.looks = 0
        self._seen = {other: Sign() for other in self.others}
        self._over = threading.Event()
        self._show()
        self._thread = threading.Thread(target=self._run, name="shardrec-signs", daemon=True)

    def start(self) -> None:
        """Starts to look at the others, all of whom have shown themselves by now."""
        self._thread.start()

    def stop(self) -> None:
        """Shows no more signs; waits a moment for the store."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(self.beat)

    def seen(self, rank: int) -> Sign:
        """Returns a worker's last sign that reached this one."""
        return self._seen[rank]

    def silent(self) -> SilentWorkerError | None:
        """Returns the error about a worker that shows nothing for a while from now on; None where all do."""
        watch = Watch(self, patience=2.5 * self.beat)
        until = time.monotonic() + 4 * self.beat
        while time.monotonic() < until:
            time.sleep(self.beat / 2)
            try:
                watch.look()
            except SilentWorkerError as error:
                return error
        return None

    def _run(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and the run with it
            while not self._over.wait(self.beat):
                self._show()
                self._look()

    def _show(self) -> None:
        self._shown += 1
        self._store.set(_key(self._rank), json.dumps([self._shown, socket.gethostname(), self.doing()]))

    def _look(self) -> None:
        values = self._store.multi_get([_key(rank) for rank in self.others])
        self._seen = {rank: Sign(*json.loads(value)) for rank, value in zip(self.others, values, strict=True)}
        self.looks += 1


class Watch:
    """A watch counts for how long the others have been silent, as long as this worker waits for them."""

    def __init__(self, signs: Signs, patience: float | None = None) -> None:
        self._signs, self._patience = signs, signs.timeout if patience is None else patience
        self._last, self._looks = {rank: signs.seen(rank) for rank in signs.others}, signs.looks
        self._silence = dict.fromkeys(signs.others, 0.0)
        self._looked = time.monotonic()

    def look(self) -> None:
        """Raises SilentWorkerError for a worker that has been silent for too long."""
        signs, now = self._signs, time.monotonic()
        answered = signs.looks > self._looks
        if (passed := now - self._looked) < signs.beat or not (answered or 0 in signs.others):
            return
        self._looked, self._looks = now, signs.looks
        for rank in signs.others if answered else (0,):
            before, self._last[rank] = self._last[rank], signs.seen(rank)
            counted = min(passed, MOST_AT_ONCE * signs.beat)
            self._silence[rank] = self._silence[rank] + counted if self._last[rank] == before else 0.0
            if self._silence[rank] > self._patience:
                sign = self._last[rank]
                raise SilentWorkerError(
                    f"rank {rank} on {sign.host} ({sign.doing}) gives no sign of life for "
                    f"{signs.timeout:g} s (launch.timeout): it is frozen, or its machine is gone"
                )


def _key(rank: int) -> str:
    return f"sign of life/{rank}"
