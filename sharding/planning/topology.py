"""A topology describes the machines that a plan is made for: ranks, hosts, memory for tables, bandwidth."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.exchange import Exchange

GIB = 1 << 30
CPU_RESERVE = 1 * GIB  # an estimate: interpreter, torch, readers, batches and activations of one rank
CUDA_RESERVE = 4 * GIB  # CUDA context, NCCL buffers, activations

DENSE_FLOPS = {
    "cpu": {"highest": 1.1e11, "high": 1.1e11, "medium": 2.4e11, "bf16": 4.8e11},
    "cuda": {"highest": 5e13, "high": 2e14, "medium": 2e14, "bf16": 4e14},
}
"""FLOP/s of matrix products on one rank by float32 precision or bf16. CPU: measured on one core of 2024 with AVX-512
(`medium` is oneDNN's); an H100's data sheet, 75 % of its fp32 and 40 % of its TF32 and bf16, as towers are narrow."""

BUS_BANDWIDTH = 3.8e10
"""Bytes/s of table rows between a GPU and its host's memory: 60 % of PCIe 5's 63 GB/s in each direction."""

_RATES: dict[str, dict[str, Any]] = {
    # one core and gloo on one machine: gathers, all-to-all of two processes; between hosts 10 Gbit/s
    "cpu": {"row_bandwidth": 6e9, "local_bandwidth": 2e9, "host_bandwidth": 1.2e9, "latency": 3e-4},
    # an H100 of an 8-GPU host, 60 % of its memory's data sheet (3.35 TB/s), 80 % of NVLink's (450 GB/s in each
    # direction) and of a 400 Gbit/s network card a GPU
    "cuda": {"row_bandwidth": 2e12, "local_bandwidth": 3.6e11, "host_bandwidth": 4e10, "latency": 5e-5},
}


@dataclass(frozen=True)
class Topology:
    """A topology has `world_size` ranks on hosts of `local_world_size`, each with `memory_per_rank` bytes for tables.

    Rates are a rank's: bandwidths in bytes/s of reading table rows, to the ranks of its host and to other hosts, in
    each direction; `dense_flops` FLOP/s of matrix products; `latency` seconds that a collective takes at least;
    `bus_bandwidth` of reading rows in the memory of a GPU's host, which has `host_memory` bytes for them in all (None:
    not known). They weigh placements against each other and make estimates (`cost.py`). Defaults: a desktop CPU and
    gloo. exchange: the numbers that vectors travel as.
    """

    world_size: int
    local_world_size: int
    device: Literal["cpu", "cuda"]
    memory_per_rank: int
    row_bandwidth: float = _RATES["cpu"]["row_bandwidth"]
    local_bandwidth: float = _RATES["cpu"]["local_bandwidth"]
    host_bandwidth: float = _RATES["cpu"]["host_bandwidth"]
    dense_flops: float = DENSE_FLOPS["cpu"]["medium"]
    latency: float = _RATES["cpu"]["latency"]
    bus_bandwidth: float = BUS_BANDWIDTH
    host_memory: int | None = None
    exchange: Exchange = "fp32"

    @property
    def hosts(self) -> int:
        """Returns how many hosts the ranks are on."""
        return -(-self.world_size // self.local_world_size)

    @property
    def several_alike(self) -> bool:
        """Returns whether there are several hosts, all of them with as many ranks."""
        return self.hosts > 1 and self.world_size % self.local_world_size == 0

    def ranks_of(self, host: int) -> range:
        """Returns the ranks on a host."""
        return range(host * self.local_world_size, min(self.world_size, (host + 1) * self.local_world_size))

    @classmethod
    def described(
        cls, hosts: int, devices: int, device: Literal["cpu", "cuda"], memory_per_rank: int, **rates: float
    ) -> "Topology":
        """Returns `hosts` of `devices` ranks that need not be here, with the device's usual rates but for `rates`."""
        usual = _RATES[device] | {"dense_flops": DENSE_FLOPS[device]["medium"]}
        return cls(hosts * devices, devices, device, memory_per_rank, **(usual | rates))

    @classmethod
    def here(
        cls, world_size: int, local_world_size: int, device: torch.device, reserve: int | None = None
    ) -> "Topology":
        """Returns this machine, whose memory is less by `reserve` bytes a rank for everything but tables.

        CPU: the smaller of available physical memory and what the control group leaves, divided by the local ranks.
        CUDA: free memory of this rank's GPU, `device`; no other is asked. Raises UserError for `cuda` without a GPU.
        """
        if device.type == "cuda":
            left = _free_memory(device) - (CUDA_RESERVE if reserve is None else reserve)
            host = max(0, available_memory() - local_world_size * CPU_RESERVE)
            return cls(world_size, local_world_size, "cuda", max(0, left), host_memory=host, **_RATES["cuda"])
        left = available_memory() // local_world_size - (CPU_RESERVE if reserve is None else reserve)
        return cls(world_size, local_world_size, "cpu", max(0, left))

    def agreed(self, group: dist.ProcessGroup | None = None) -> "Topology":
        """Returns the same on all ranks, so that all make the same plan.

        It has the least memory that any rank has, and hosts of as many ranks as the largest one.
        """
        mine = [self.memory_per_rank, self.host_memory or 0, -self.local_world_size]
        least = torch.tensor(mine, device=self.device)
        dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
        memory, host, local = least.tolist()
        return replace(
            self,
            memory_per_rank=memory,
            host_memory=None if self.host_memory is None else host,
            local_world_size=-local,
        )


def _free_memory(gpu: torch.device) -> int:
    """Returns the bytes of a GPU that nobody uses, torch's own cache of what this process has freed among them."""
    if not torch.cuda.is_available():
        raise UserError("device is cuda, but torch finds no GPU here; set launch.device to cpu")
    cached = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return int(torch.cuda.mem_get_info(gpu)[0]) + cached


def available_memory() -> int:
    """Returns the bytes that processes here may still take, of physical memory or of a control group, if less."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    physical = int(fields["MemAvailable"].split()[0]) * 1024
    return min([physical, *_control_group_memory()])


def _control_group_memory() -> list[int]:
    """Returns what each control group above this process leaves (v2 and v1), as if its page cache were dropped."""
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
            limit_text = (folder / limit).read_text().strip()
            if limit_text == "max":
                continue
            stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            left.append(int(limit_text) - int((folder / used).read_text()) + int(stat.get(cache, 0)))
    return left
