"""A patient group is a process group of all workers for Python objects, in which some may come late, but not for ever.

Around checkpoints some write or fill far larger tables than others. How long the others wait follows from how much that
is; a worker that gives no sign of life is not waited for.
"""

import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from shardrec.trainer.launch.absent_workers import LateWorkersError
from shardrec.trainer.launch.signs import Signs, Watch

T = TypeVar("T")

PATIENCE_SECONDS = 3600.0
"""What ranks wait for one another where it is not known how much is read or written."""

SLOW_BYTES_PER_SECOND = 10 << 20
"""What a slow disk, or a share that many write to, takes at least."""

_FOR_EVER = timedelta(days=365)  # who waits decides how long
_FIRST_PAUSE, _LONGEST_PAUSE = 1e-4, 0.05  # between looks at whether the others have come


class PatientGroup:
    """A patient group's collectives are called by all workers alike."""

    def __init__(self, rank: int, world_size: int, signs: Signs) -> None:
        self._rank, self._world_size, self._signs = rank, world_size, signs
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
        _set_pg_timeout(_FOR_EVER, self._group)
        self._patience = PATIENCE_SECONDS

    @contextmanager
    def moving(self, size: int) -> Iterator[None]:
        """Waits meanwhile for as long as the largest of all workers' sizes takes to be read or written, in bytes."""
        before = self._patience
        self._patience = self._signs.timeout + max(self.gather(size)) / SLOW_BYTES_PER_SECOND
        try:
            yield
        finally:
            self._patience = before

    def barrier(self) -> None:
        """Waits for all ranks."""
        self._wait(dist.barrier(group=self._group, async_op=True))

    def broadcast(self, value: T | None) -> T:
        """Returns rank 0's value, on every rank."""
        leads = self._rank == 0
        data = _bytes_of(value) if leads else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(data)])
        self._wait(dist.broadcast(size, src=0, group=self._group, async_op=True))
        if not leads:
            data = torch.empty(int(size), dtype=torch.uint8)
        self._wait(dist.broadcast(data, src=0, group=self._group, async_op=True))
        return value if leads else _value_of(data)  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Returns all ranks' values in rank order, on every rank."""
        data = _bytes_of(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        self._wait(dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group, async_op=True))
        largest = int(max(sizes))
        padded = torch.cat([data, data.new_zeros(largest - len(data))])
        parts = [torch.empty(largest, dtype=torch.uint8) for _ in range(self._world_size)]
        self._wait(dist.all_gather(parts, padded, group=self._group, async_op=True))
        return [_value_of(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def _wait(self, work: dist.Work) -> None:
        """Waits for a collective.

        Raises SilentWorkerError for a worker that is frozen, LateWorkersError where patience ends.
        """
        watch, began, pause = Watch(self._signs), time.monotonic(), _FIRST_PAUSE
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            watch.look()
            if time.monotonic() - began > self._patience:
                doing = [f"rank {r} on {(s := self._signs.seen(r)).host} ({s.doing})" for r in self._signs.others[:3]]
                raise LateWorkersError(
                    f"waited {self._patience:.0f} s for other workers, who live but do not come: {', '.join(doing)}"
                )
        work.wait()


def _bytes_of(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _value_of(data: torch.Tensor) -> Any:
    return pickle.loads(data.numpy().data)
