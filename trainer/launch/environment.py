"""An environment is a worker's place among its peers, with the few collectives on Python objects that a run needs."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

PATIENCE_SECONDS = 3600.0  # that ranks wait for one another around checkpoints


@dataclass
class Environment:
    """An environment is one worker's place. The default process group spans all workers of the run.

    The collectives here go through a gloo group of their own that waits for long: around checkpoints some ranks write
    or fill far larger tables than others. A rank that is lost is noticed at once all the same.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    _patient: dist.ProcessGroup | None = field(default=None, repr=False)
    _host: dist.ProcessGroup | None = field(default=None, repr=False)

    @property
    def leads(self) -> bool:
        """Returns whether this is the worker that writes shared files."""
        return self.rank == 0

    @classmethod
    def from_variables(cls, device: str) -> "Environment":
        """Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; where they are not set, the worker is alone."""
        rank, world_size, local_rank = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        return cls(rank, world_size, local_rank, local_world_size, resolve_device(device, local_rank))

    def join(self, timeout: float) -> None:
        """Joins the process group, unless a launcher has done so already."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            self._make_group(timeout)
        if self.world_size > 1:
            self._patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
            if self.device.type == "cuda":
                self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def _make_group(self, timeout: float) -> None:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        store = dist.HashStore() if self.world_size == 1 else None
        rank, size = (self.rank, self.world_size) if store else (-1, -1)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor on the CPU over all ranks, in place, within the time that a step's collectives may take."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self._host)  # None: the default group, which is gloo for CPU workers
        return tensor

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world_size > 1:
            dist.barrier(group=self._patient)

    def broadcast(self, value: T | None) -> T:
        """Returns rank 0's value, on every rank."""
        box: list[Any] = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Returns all ranks' values in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._patient)
        return values


def resolve_device(device: str, local_rank: int = 0) -> torch.device:
    """Returns the device that a run file names; `auto` is this worker's GPU where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")


def default_workers(device: torch.device) -> int:
    """Returns one worker a GPU; on CPU one, since threads beat processes there until memory bandwidth is short."""
    return torch.cuda.device_count() if device.type == "cuda" else 1
