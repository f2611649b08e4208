"""Counts the cores that this process has, and the workers and threads of a run, without torch where it can."""

import os

from shardrec.trainer.config.launch import LaunchConfig


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


def too_many_threads(launch: LaunchConfig, local_world_size: int) -> str | None:
    """Returns a line on workers of one machine that have more threads together than it has cores, else None.

    Threads of one worker wait for each other many times a step: two on a core make it several times as long.
    """
    threads, there = worker_threads(launch, local_world_size), cores()
    if threads * local_world_size <= there or threads == 1:
        return None
    best = max(1, there // local_world_size)
    return (
        f"launch.threads: {local_world_size} workers of {threads} threads share {there} cores, and threads that wait "
        f"for each other make steps several times as long; leave it out, which makes it {best}"
    )


def cluster_address(launch: LaunchConfig) -> str | None:
    """Returns the address of the Ray cluster that a launch joins; None where it joins none."""
    return launch.address or os.environ.get("RAY_ADDRESS") or None


def worker_count(launch: LaunchConfig) -> int:
    """Returns how many workers a run has at most: as many as it says, else one a GPU, or one where there is none.

    Of a number that may change, on this machine alone, they are as many as it has GPUs, or else cores.
    """
    fewest, most = launch.fewest_workers, launch.most_workers
    if fewest is None or most is None:
        return _one_a_gpu(launch)
    if not launch.is_elastic or cluster_address(launch):
        return most
    room = cores() if launch.device == "cpu" else _one_a_gpu(launch, otherwise=cores())
    return max(fewest, min(most, room))


def _one_a_gpu(launch: LaunchConfig, otherwise: int = 1) -> int:
    from shardrec.trainer.launch.environment import default_workers, resolve_device

    device = resolve_device(launch.device)
    return otherwise if device.type == "cpu" else default_workers(device)
