"""Facts: versions of what computes, the machine, and the rates that its memory and its matrix products reach."""

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import fbgemm_gpu  # noqa: F401  (its operations are torch's from then on)
import torch

from shardrec.sharding.planning.topology import available_memory
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task
from shardrec.trainer.benchmarks.gpu_check.sections.timing import seconds_each

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow", "numpy", "ray")


def run(task: Task, report: Report) -> None:
    """Reports them; raises where FBGEMM's kernels do not run on the device."""
    report("python", platform.python_version())
    for package in PACKAGES:
        report(package, _version(package))
    report("processor", f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    report("memory_bytes", available_memory())
    device = task.torch_device
    if task.device == "cuda":
        for name, value in _gpu(device):
            report(name, value)
    counted = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.ones(3, dtype=torch.int64, device=device))
    assert counted.tolist() == [0, 1, 2, 3], counted
    report("fbgemm_on_the_device", True)
    _rates(task, report)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not there"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _gpu(device: torch.device) -> Iterator[tuple[str, object]]:
    """Yields what is known of the GPU."""
    yield "cuda", torch.version.cuda
    properties = torch.cuda.get_device_properties(device)
    for name in ("name", "major", "minor", "multi_processor_count", "L2_cache_size", "total_memory"):
        yield f"gpu_{name.lower()}", getattr(properties, name, None)
    yield "gpu_free_memory", torch.cuda.mem_get_info(device)[0]
    yield "gpus", torch.cuda.device_count()
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    yield "driver_clock_power", said


def _rates(task: Task, report: Report) -> None:
    """Reports what bounds of steps are made of: products, copies, and copies from the host."""
    device, size = task.torch_device, 256 if task.small else 8192
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = seconds_each(lambda a=a, b=b: a @ b, 3 if task.small else 10, device)  # type: ignore[misc]
        report(f"{name}_products_tflops", round(2 * size**3 / seconds / 1e12, 3))
    values = torch.zeros((1 << 20) if task.small else (1 << 30), dtype=torch.uint8, device=device)
    there = torch.empty_like(values)
    seconds = seconds_each(lambda: there.copy_(values), 5, device)
    report("copy_gb_per_second", round(2 * values.numel() / seconds / 1e9, 1))
    host = torch.zeros(values.numel() // 4, dtype=torch.uint8, pin_memory=task.device == "cuda")
    seconds = seconds_each(lambda: there[: host.numel()].copy_(host, non_blocking=True), 5, device)
    report("host_to_device_gb_per_second", round(host.numel() / seconds / 1e9, 1))
