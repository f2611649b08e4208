"""The machines that a plan is made for: ranks, hosts, memory for tables, bandwidth."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from data_pipeline.errors import UserError

GIB = 1 << 30
CPU_RESERVE = 1 * GIB  # an estimate: interpreter, torch, readers, batches and activations of one rank
CUDA_RESERVE = 4 * GIB  # CUDA context, NCCL buffers, activations


@dataclass(frozen=True)
class Topology:
    """`world_size` ranks on hosts of `local_world_size`, each with `memory_per_rank` bytes for tables.

    Bandwidths are bytes/s: reading table rows, between the ranks of a host, between hosts. They only weigh placements
    against each other. Defaults: a desktop CPU and gloo, or one GPU with NVLink.
    """

    world_size: int
    local_world_size: int
    device: Literal["cpu", "cuda"]
    memory_per_rank: int
    row_bandwidth: float = 6e9
    local_bandwidth: float = 2e9
    host_bandwidth: float = 1.2e9

    @classmethod
    def here(
        cls, world_size: int, local_world_size: int, device: Literal["cpu", "cuda"], reserve: int | None = None
    ) -> "Topology":
        """This machine's memory, less `reserve` bytes a rank for everything but tables.

        CPU: the smaller of available physical memory and what the control group leaves, divided by the local ranks.
        CUDA: free memory of this rank's GPU. Raises UserError for `cuda` without a GPU.
        """
        if device == "cuda":
            if not torch.cuda.is_available():
                raise UserError("device is cuda, but torch finds no GPU here; set launch.device to cpu")
            free = torch.cuda.mem_get_info()[0]
            left = free - (CUDA_RESERVE if reserve is None else reserve)
            return cls(world_size, local_world_size, device, max(0, left), 2e12, 2e11, 2.5e10)
        left = available_memory() // local_world_size - (CPU_RESERVE if reserve is None else reserve)
        return cls(world_size, local_world_size, device, max(0, left))

    def agreed(self, group: dist.ProcessGroup | None = None) -> "Topology":
        """The same on all ranks: the least memory that any has, so that every rank makes the same plan."""
        least = torch.tensor(self.memory_per_rank, device=self.device)
        dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
        return replace(self, memory_per_rank=int(least))


def available_memory() -> int:
    """Bytes that processes here may still take: physical memory that is available, or less by a control group."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    physical = int(fields["MemAvailable"].split()[0]) * 1024
    return min([physical, *_control_group_memory()])


def _control_group_memory() -> list[int]:
    """What each control group above this process leaves (v2 and v1); page cache that can be dropped is not counted."""
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used, cache = "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        group = os.path.normpath(path.lstrip("/")) if path.strip("/") else "."
        for folder in [Path(root, group), *Path(root, group).parents]:
            if not folder.is_relative_to(root) or not (folder / limit).exists():
                continue
            said = (folder / limit).read_text().strip()
            if said == "max":
                continue
            stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            left.append(int(said) - int((folder / used).read_text()) + int(stat.get(cache, 0)))
    return left
