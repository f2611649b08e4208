"""Times of work on a device, and a profile of what its kernels took."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOP = 25
"""Kernels that a profile lists."""


def synchronize(device: torch.device) -> None:
    """Waits until a device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(work: Callable[[], Any], times: int, device: torch.device) -> float:
    """Returns the seconds that work takes when it is called `times` times without waiting in between."""
    work()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - began) / times


def profiled(work: Callable[[], Any], times: int, device: torch.device, trace: Path) -> list[dict[str, Any]]:
    """Returns the operations that took longest, a row each with milliseconds a call of `work`; writes a Chrome trace.

    trace: a `.json.gz`. Rows are in the order of the device's own time, which on CPU is the host's.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(times):
            work()
        synchronize(device)
    profile.export_chrome_trace(str(trace))
    on_device = device.type == "cuda"
    rows = [_row(event, times, on_device) for event in profile.key_averages()]
    rows.sort(key=lambda row: -row["device_ms" if on_device else "host_ms"])
    return rows[:TOP]


def _row(event: Any, times: int, on_device: bool) -> dict[str, Any]:
    row = {"name": event.key[:100], "calls": round(event.count / times, 1)}
    if on_device:
        row["device_ms"] = round(event.self_device_time_total / times / 1e3, 3)
    return row | {"host_ms": round(event.self_cpu_time_total / times / 1e3, 3)}
