"""A worker, or a server of Ray, that is frozen is noticed after `launch.timeout`, named, and not waited for."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from shardrec.trainer.launch.absent_workers import LateWorkersError, SilentWorkerError
from shardrec.trainer.launch.environment import Environment
from tests.processes import run_processes
from tests.trainer.launch.test_endings import lines_of, trains, until
from tests.trainer.small_run import run_file, write_data
from tests.trainer.started import started
from tests.trainer.torchrun import torchrun

TIMEOUT = 4.0  # seconds: machines that run tests are slow at times
NAMED = r"rank \d on \S+ \((starting|step \d+, .+)\) gives no sign of life for 4 s \(launch.timeout\)"
ON_RAY = ("--set", "launch.workers=2", "--set", "launch.backend=ray")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# ---------------------------------------------------------------- ranks that wait


def wait_for_a_frozen_rank(rank: int, which: int) -> str | None:
    """What the other of two ranks hears while `which` is frozen."""
    environment = Environment(rank, 2, rank, 2, torch.device("cpu"))
    environment.join(TIMEOUT)
    assert environment.signs is not None
    environment.signs.doing = lambda: f"step {7 + rank}, saving checkpoint"
    time.sleep(3 * environment.signs.beat)
    pids, store = environment.gather(os.getpid()), dist.distributed_c10d._get_default_store()
    said = None
    if rank != which:
        with frozen(pids[which]):
            try:
                environment.barrier()
            except SilentWorkerError as error:
                said = str(error)
        store.set("told", "1")
    store.wait(["told"])
    return said


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_is_frozen_is_named(which: int) -> None:
    """Also the one that keeps the store by which the others would hear of it."""
    said = run_processes(2, wait_for_a_frozen_rank, which)[1 - which]
    where = f"rank {which} on {socket.gethostname()} (step {7 + which}, saving checkpoint)"
    assert said == f"{where} gives no sign of life for 4 s (launch.timeout): it is frozen, or its machine is gone"


def wait_for_a_late_rank(rank: int) -> list[str]:
    environment = Environment(rank, 2, rank, 2, torch.device("cpu"))
    environment.join(0.5)
    said = []
    for size in (20 << 20, 0):  # of which the first takes two seconds on a slow disk
        with environment.moving(size * rank):
            if rank == 1:
                time.sleep(1.5)
            try:
                environment.gather("come")
            except LateWorkersError as error:
                said.append(str(error))
                break
    return said


def test_a_rank_that_is_late_is_waited_for_as_long_as_it_has_to_write() -> None:
    first, _ = run_processes(2, wait_for_a_late_rank)
    assert len(first) == 1 and re.fullmatch(r"waited \d+ s for other workers, .*: rank 1 on \S+ \(starting\)", first[0])


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("freezes") / "data", rows=1200)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    settings = {"epochs": 99, "max_steps": 400, "checkpoint": {"every_steps": 3}, "evaluation": {"every_epochs": 99}}
    return run_file(tmp_path / "run.yaml", data, trainer=settings, launch={"threads": 1, "timeout": TIMEOUT})


def descendants(process: BaseProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_frozen_rank_of_torchrun_ends_the_run_in_a_line(path: Path, tmp_path: Path) -> None:
    agent = torchrun(2, tmp_path, "train", path, "--quiet")
    until(lambda: trains(tmp_path / "run"), agent)
    leader = int(re.findall(r'"pid": (\d+)', (tmp_path / "run/.lock").read_text())[0])
    (peer,) = [p for p in psutil.Process(agent.pid).children() if p.pid != leader]
    peer.suspend()
    psutil.Process(leader).wait(60)
    peer.kill()
    agent.join()
    assert agent.exitcode
    (line,) = lines_of(tmp_path / "0.log")
    assert re.match(rf"shardrec: error: rank 0 on \S+, step \d+: {NAMED}", line)
    assert line.endswith("; --resume goes on from the last checkpoint")


@pytest.mark.long
def test_a_frozen_server_of_ray_ends_the_run_in_a_line(path: Path, tmp_path: Path) -> None:
    process = started("train", path, "--quiet", *ON_RAY, log=tmp_path / "log")
    until(lambda: trains(tmp_path / "run"), process)
    children = descendants(process)
    next(child for child in children if child.name() == "gcs_server").suspend()
    process.join()
    assert process.exitcode == 1
    (line,) = lines_of(tmp_path / "log")
    assert (
        "the gcs_server process of the local Ray is frozen: it has not run for 5 s (launch.timeout), and with" in line
    )
    assert not any(child.is_running() for child in children)
