"""Counts the cores that this process has, and the workers and threads of a run, without torch where it can."""

import os

from shardrec.trainer.config.sections import LaunchConfig


def cores() -> int:
    """Returns how many cores this process may use: its affinity, within its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def worker_threads(launch: LaunchConfig, local_world_size: int) -> int:
    """Returns a worker's threads: as many as the run file says, else its share of this machine's cores."""
    return launch.threads or max(1, cores() // local_world_size)


def worker_count(launch: LaunchConfig) -> int:
    """Returns how many workers a run has: as many as it says, else one a GPU, or one where there is none."""
    if launch.workers is not None:
        return launch.workers
    from shardrec.trainer.launch.environment import default_workers, resolve_device

    return default_workers(resolve_device(launch.device))
