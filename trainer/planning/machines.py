"""Machines to plan for are described by sizes and rates as people write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from shardrec.data_pipeline.declared.sizes import parse_bytes, readable
from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.fit import PlanError
from shardrec.sharding.planning.topology import CPU_RESERVE, CUDA_RESERVE, DENSE_FLOPS, Topology
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import resolve_device
from shardrec.trainer.session.precision import FAST

HOST_RESERVE = CPU_RESERVE
"""Bytes of a host's memory that each of its GPUs' workers takes beside `data.memory`: interpreter, torch, batches."""


@dataclass(frozen=True)
class Machines:
    """The machines that a plan is asked for, as the command's options describe them; with nothing given, this one.

    hosts: how many; devices: of each. Sizes and rates are texts: `80GB`, `450GB/s`, `200TFLOP/s`.
    """

    hosts: int | None = None
    devices: int | None = None
    device: str | None = None
    device_memory: str | None = None
    host_memory: str | None = None
    reserve: str | None = None
    intra_bandwidth: str | None = None
    inter_bandwidth: str | None = None
    row_bandwidth: str | None = None
    dense_flops: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Says whether machines are described, rather than this one planned for."""
        return any(value is not None for value in vars(self).values())

    def topology(self, config: RunConfig) -> Topology:
        """Returns the machines described; the run file's `launch.rates` hold where its devices are of their kind.

        Raises UserError for what is missing, contradicts, or is no size; PlanError where a host's memory does not hold
        what its workers need beside tables.
        """
        hosts, devices = self.hosts or 1, self.devices or 1
        device = self._device(config)
        memory = self._cpu_memory(devices) if device == "cpu" else self._cuda_memory()
        host_memory = self._host_memory(config, devices) if device == "cuda" else None
        measured = config.launch.rates.model_dump(exclude_none=True)
        rates = {
            "row_bandwidth": parse_rate("--row-bandwidth", self.row_bandwidth),
            "local_bandwidth": parse_rate("--intra-bandwidth", self.intra_bandwidth),
            "host_bandwidth": parse_rate("--inter-bandwidth", self.inter_bandwidth),
            "dense_flops": parse_flops("--dense-flops", self.dense_flops) or dense_flops(config, device),
        }
        of_options = {name: rate for name, rate in rates.items() if rate is not None}
        of_device = resolve_device(config.launch.device).type == device
        described = Topology.described(hosts, devices, device, memory, **((measured if of_device else {}) | of_options))
        return replace(described, host_memory=host_memory, exchange=config.trainer.exchange)

    def _device(self, config: RunConfig) -> Literal["cpu", "cuda"]:
        device = self.device or (None if config.launch.device == "auto" else config.launch.device)
        if device is None:
            return "cpu" if self.device_memory is None and self.host_memory is not None else "cuda"
        if device not in ("cpu", "cuda"):
            raise UserError(f"--device {device}: expected cpu or cuda")
        return "cuda" if device == "cuda" else "cpu"

    def _host_memory(self, config: RunConfig, devices: int) -> int | None:
        """Returns the bytes of a GPU host that are for tables; None: not said."""
        if self.host_memory is None:
            return None
        memory, each = parse_size("--host-memory", self.host_memory), HOST_RESERVE + config.data.memory
        if devices * each > memory:
            raise PlanError(
                f"not enough memory: a host's {devices} worker(s) need {readable(devices * each)} beside their "
                f"tables ({readable(each)} each, of which data.memory {readable(config.data.memory)}) and it has "
                f"{readable(memory)}, {readable(devices * each - memory)} short; set a smaller data.memory, or use "
                "fewer devices a host"
            )
        return memory - devices * each

    def _cuda_memory(self) -> int:
        """Returns the bytes of a GPU that are for tables."""
        if self.device_memory is None:
            raise UserError("--device-memory is needed to plan for GPUs, such as --device-memory 80GB; or --device cpu")
        return self._left("--device-memory", parse_size("--device-memory", self.device_memory), "cuda")

    def _cpu_memory(self, devices: int) -> int:
        """Returns the bytes for tables of a worker's share of its host's memory."""
        if self.device_memory is not None:
            raise UserError("--device-memory is of GPUs; for CPU workers give --host-memory, or say --device cuda")
        if self.host_memory is None:
            raise UserError("--host-memory is needed to plan for CPU workers, such as --host-memory 256GB")
        return self._left("--host-memory", parse_size("--host-memory", self.host_memory) // devices, "cpu")

    def reserved(self, device: str) -> int:
        """Returns the bytes of a rank's memory that are kept for everything but tables."""
        if self.reserve is not None:
            return parse_size("--reserve", self.reserve)
        return {"cpu": CPU_RESERVE, "cuda": CUDA_RESERVE}[device]

    def _left(self, option: str, memory: int, device: str) -> int:
        reserve = self.reserved(device)
        if memory <= reserve:
            raise PlanError(
                f"not enough memory: {option} gives a rank {readable(memory)}, of which {readable(reserve)} are kept "
                "for everything but tables; give more, or set --reserve"
            )
        return memory - reserve


def dense_flops(config: RunConfig, device: str) -> float:
    """Returns the FLOP/s of matrix products in the run's precision; on CPU of all threads of a worker."""
    return DENSE_FLOPS[device][matmul_kind(config, device)] * (config.launch.threads or 1 if device == "cpu" else 1)


def matmul_kind(config: RunConfig, device: str) -> str:
    """Says which matrix products the tower uses: `bf16`, or a float32 precision; `auto` chooses either by device."""
    rates, precision, wanted = DENSE_FLOPS[device], config.trainer.precision, config.trainer.matmul_precision
    fp32 = {"cpu": "medium", "cuda": "highest"}[device] if wanted == "auto" else wanted
    is_fast = precision == "auto" and rates["bf16"] >= FAST * rates[fp32]
    return "bf16" if precision == "bf16" or is_fast else fp32


def faster_products(config: RunConfig, topology: Topology) -> Mapping[str, float]:
    """Returns what a run file could set, each with the FLOP/s that its dense compute then has."""
    rates = DENSE_FLOPS[topology.device]
    now = rates[matmul_kind(config, topology.device)]
    settings = {"trainer.precision bf16": rates["bf16"], "trainer.matmul_precision high": rates["high"]}
    return {setting: topology.dense_flops * rate / now for setting, rate in settings.items() if rate > now}


# ---------------------------------------------------------------- sizes and rates


def parse_size(option: str, text: str) -> int:
    """Returns `80GB` or `1TiB` in bytes. Raises UserError for what is no size."""
    return int(_positive(option, text, text, "a size such as 80GB or 80GiB"))


def parse_rate(option: str, text: str | None) -> float | None:
    """Returns `450GB/s` in bytes/s; None stays. Raises UserError for what is no rate."""
    if text is None:
        return None
    return _positive(option, text, re.sub(r"/s\s*$", "", text), "a rate such as 50GB/s")


def parse_flops(option: str, text: str | None) -> float | None:
    """Returns `200TFLOP/s` or `2e14` in FLOP/s; None stays. Raises UserError for what is no rate."""
    if text is None:
        return None
    return _positive(option, text, re.sub(r"(FLOPS?(/s)?)?\s*$", "", text), "a rate such as 200TFLOP/s")


def _positive(option: str, text: str, size: str, expected: str) -> float:
    try:
        number: Any = parse_bytes(size)
    except (ValueError, OverflowError):
        number = 0
    if number <= 0:
        raise UserError(f"{option} {text}: expected {expected}")
    return float(number)
