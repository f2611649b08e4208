"""Threads and workers share a machine's cores."""

import os

import pytest

from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.launch.cores import cores, too_many_threads, worker_threads


@pytest.mark.parametrize("workers", [1, 2, 3, 64])
def test_the_default_shares_the_cores(workers: int) -> None:
    launch = LaunchConfig(workers=workers)
    assert worker_threads(launch, workers) == max(1, cores() // workers)
    assert too_many_threads(launch, workers) is None


def test_more_threads_than_cores_are_named() -> None:
    there = cores()
    assert too_many_threads(LaunchConfig(workers=1, threads=there), 1) is None
    line = too_many_threads(LaunchConfig(workers=2, threads=there + 1), 2)
    assert line is not None and "\n" not in line
    assert f"2 workers of {there + 1} threads share {there} cores" in line
    assert f"leave it out, which makes it {max(1, there // 2)}" in line


def test_workers_of_one_thread_are_not_told_so() -> None:
    """They wait for each other once in a collective, not many times a step."""
    assert too_many_threads(LaunchConfig(workers=64, threads=1), 64) is None


def test_cores_are_those_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
