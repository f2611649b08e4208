"""An environment is a worker's place among its peers, with the few collectives on Python objects that a run needs."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.launch.meeting import met
from shardrec.trainer.launch.notes import agents_store
from shardrec.trainer.launch.patient_group import PatientGroup
from shardrec.trainer.launch.signs import Signs

T = TypeVar("T")


@dataclass
class Environment:
    """An environment is one worker's place. The default process group spans all workers of the run.

    The collectives here on Python objects go through a group of their own (`patient_group.py`), which waits for longer
    than a step does. A rank that is lost is noticed at once all the same, and one that is frozen after the time-out.

    local_world_size: workers of this one's host, of which other hosts may have more or fewer. unseen_on: its machine,
    where that is not the launching process's, which measures memory there.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    unseen_on: str | None = None
    signs: Signs | None = field(default=None, repr=False)
    _patient: PatientGroup | None = field(default=None, repr=False)
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
        node = os.environ.get("GROUP_RANK", "0")  # torchrun's, whose first node has rank 0
        unseen_on = None if node == "0" else f"node {node}"
        return cls(rank, world_size, local_rank, local_world_size, resolve_device(device, local_rank), unseen_on)

    @contextmanager
    def group(self, timeout: float) -> Iterator[None]:
        """Joins the process group, and leaves it where this is done, unless it was there before.

        After an error a group of several workers is left as it is. To destroy it a worker may wait for its peers, and
        these for the collective that it does not come to any more: whoever raises has to leave at once.

        Raises UserError as `join` does.
        """
        is_ours, is_done = not dist.is_initialized(), False
        try:
            self.join(timeout)
            yield
            is_done = True
        finally:
            if self.signs is not None and is_done:
                self.signs.stop()
            if is_ours and dist.is_initialized() and (is_done or self.world_size == 1):
                dist.destroy_process_group()

    def join(self, timeout: float) -> None:
        """Joins the process group, unless a launcher has done so already.

        Raises UserError where this worker's GPU is not there, where two workers would share one, and where some workers
        would compute on GPUs and others on CPUs.
        """
        if self.device.type == "cuda":
            self._take_gpu()
        if not dist.is_initialized():
            self._make_group(timeout)
        if self.world_size > 1:
            self.signs = Signs(_get_default_store(), self.rank, self.world_size, timeout)
            self._patient = PatientGroup(self.rank, self.world_size, self.signs)
            if self.device.type == "cuda":
                self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            self.signs.start()
            check_devices(self.gather((socket.gethostname(), self.device.type, _gpu(self.device))))

    def _take_gpu(self) -> None:
        found = torch.cuda.device_count()
        if (self.device.index or 0) >= found:
            raise UserError(
                f"launch: worker {self.local_rank} of {socket.gethostname()} finds {found} GPU(s) there; start one "
                "worker a GPU, or set launch.device to cpu"
            )
        torch.cuda.set_device(self.device)

    def _make_group(self, timeout: float) -> None:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        store: dist.Store | None = dist.HashStore() if self.world_size == 1 else self._own_store(timeout)
        rank, size = (self.rank, self.world_size) if store else (-1, -1)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))

    def _own_store(self, timeout: float) -> dist.Store | None:
        """Returns the store of workers that meet on a loopback address: torch's own listens on all interfaces.

        None where they meet elsewhere. In the store of torchrun's agents they have a part of their own.
        """
        address, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
        waits = timedelta(seconds=timeout)
        if agents := agents_store(waits):
            return met(agents, self.rank, self.world_size, timeout)
        if "TORCHELASTIC_RUN_ID" in os.environ or not _is_loopback(address):
            return None
        if self.rank > 0:
            return dist.TCPStore(address, port, self.world_size, False, waits)
        listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        descriptor = listener.detach()  # the store closes it
        return dist.TCPStore(address, port, self.world_size, True, waits, master_listen_fd=descriptor)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor on the CPU over all ranks, in place, within the time that a step's collectives may take."""
        return self.summing(tensor)()

    def summing(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Starts what `summed` does; what it returns waits for the sum."""
        group = self._host  # None: the default group, which is gloo for CPU workers
        work = dist.all_reduce(tensor, group=group, async_op=True) if self.world_size > 1 else None

        def wait() -> torch.Tensor:
            if work is not None:
                work.wait()
            return tensor

        return wait

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self._patient is not None:
            self._patient.barrier()

    def broadcast(self, value: T | None) -> T:
        """Returns rank 0's value, on every rank."""
        return cast(T, value) if self._patient is None else self._patient.broadcast(value)

    def gather(self, value: T) -> list[T]:
        """Returns all ranks' values in rank order, on every rank."""
        return [value] if self._patient is None else self._patient.gather(value)

    def moving(self, size: int) -> AbstractContextManager[None]:
        """Has ranks wait for one another for as long as it takes to read or write the largest of their sizes, in bytes.

        They call it alike.
        """
        return nullcontext() if self._patient is None else self._patient.moving(size)


def device_kind(device: str) -> Literal["cpu", "cuda"]:
    """Returns what a run file's `launch.device` is here: `auto` is GPUs where there are any, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device == "cuda" else "cpu"


def resolve_device(device: str, local_rank: int = 0) -> torch.device:
    """Returns the device of a worker, which is decided here alone.

    That is the GPU of its number on its host, the only one that it sees where that is one, or the CPU.
    """
    if device_kind(device) == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", local_rank if torch.cuda.device_count() > 1 else 0)


def default_workers(device: torch.device) -> int:
    """Returns one worker a GPU; on CPU one, since threads beat processes there until memory bandwidth is short.

    Raises UserError as `check_found` does.
    """
    check_found(device)
    return torch.cuda.device_count() if device.type == "cuda" else 1


def check_found(device: torch.device) -> None:
    """Raises UserError for a GPU where this machine has none."""
    if device.type == "cuda" and torch.cuda.device_count() == 0:
        raise UserError(
            "launch.device is cuda, but no GPU is found here; set it to cpu or auto, or name a cluster that has some "
            "by launch.address, and launch.workers"
        )


def check_devices(workers: Sequence[tuple[str, str, str | None]]) -> None:
    """Raises UserError where a run's workers, as (host, kind of device, GPU) in rank order, cannot work together."""
    (host, kind, _), seen = workers[0], dict[tuple[str, str], int]()
    for rank, (other, device, gpu) in enumerate(workers):
        if device != kind:
            raise UserError(
                f"launch.device: rank 0 on {host} computes on {kind}, rank {rank} on {other} on {device}; set it to "
                "cpu or cuda for all"
            )
        if gpu is not None and (first := seen.setdefault((other, gpu), rank)) != rank:
            raise UserError(
                f"launch: ranks {first} and {rank} on {other} have the same GPU; start one worker a GPU, or set "
                "launch.device to cpu"
            )


def _gpu(device: torch.device) -> str | None:
    """Returns what tells a GPU from its host's others; None for a CPU, and where that is not known."""
    if device.type == "cpu":
        return None
    known = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if known is None else str(known)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
