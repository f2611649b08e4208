"""Workers find each other, agree on what differs between hosts, and leave when one of them cannot go on."""

import os
import socket
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.cli import main
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment, check_devices
from shardrec.trainer.launch.peak_memory import unseen_memory
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.expected_workers import expected_environment, run_topology
from shardrec.trainer.training.trainer import Trainer
from tests.processes import forkserver, run_processes
from tests.trainer.small_run import run_file, write_data

MIB = 1 << 20
OWN_MODEL = """
import os
from shardrec.data_pipeline.errors import UserError
from shardrec.models.lr import LR

class Model(LR):
    def forward(self, field, dense):
        if os.environ["RANK"] == "1":
            raise UserError("rank 1 cannot go on")
        return super().forward(field, dense)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    return run_file(folder / "run.yaml", write_data(folder / "data", rows=240))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ---------------------------------------------------------------- hosts that differ


def on_unequal_hosts(rank: int, run: Path) -> tuple[Any, ...]:
    """Ranks 1 and 2 share a host that rank 0, which launches, is not on: their topology, plan and peak memory."""
    os.environ["LOCAL_WORLD_SIZE"] = "1" if rank == 0 else "2"
    environment = Environment.from_variables("cpu")
    environment.unseen_on = None if rank == 0 else "elsewhere"
    environment.join(60)
    config = load(run, ("launch.memory=1GB",))
    ballast = b"x" * (50 * MIB if rank else 0)
    with unseen_memory(environment) as peak:
        measured = peak()
    assert len(ballast) == (50 * MIB if rank else 0)
    topology, plan = run_topology(config, environment), Blueprint(config).plan(environment)
    return topology, repr(plan), measured, environment.local_world_size


@pytest.fixture(scope="module")
def unequal(run: Path) -> list[tuple[Any, ...]]:
    return run_processes(3, on_unequal_hosts, run)


def test_ranks_of_unequal_hosts_make_the_same_plan(unequal: list[tuple[Any, ...]]) -> None:
    topologies, plans, _, own = zip(*unequal, strict=True)
    assert own == (1, 2, 2)
    assert topologies[0].local_world_size == 2
    assert len(set(topologies)) == len(set(plans)) == 1


def test_workers_that_the_launcher_does_not_see_measure_themselves(unequal: list[tuple[Any, ...]]) -> None:
    peaks = {measured for _, _, measured, _ in unequal}
    assert len(peaks) == 1 and peaks.pop() > 100 * MIB


def test_workers_on_unlike_devices_do_not_start() -> None:
    check_devices([("a", "cuda", "GPU-1"), ("a", "cuda", "GPU-2"), ("b", "cuda", "GPU-1"), ("b", "cuda", None)])
    with pytest.raises(UserError, match="rank 0 on a computes on cuda, rank 1 on b on cpu; set it to cpu or cuda"):
        check_devices([("a", "cuda", "GPU-1"), ("b", "cpu", None)])
    with pytest.raises(UserError, match="ranks 0 and 2 on a have the same GPU; start one worker a GPU"):
        check_devices([("a", "cuda", "GPU-1"), ("b", "cuda", "GPU-1"), ("a", "cuda", "GPU-1")])


def test_a_worker_without_a_gpu_of_its_own_says_so() -> None:
    beyond = torch.device("cuda", torch.cuda.device_count())
    with pytest.raises(UserError, match=r"worker 7 of .* finds \d+ GPU\(s\) there; start one worker a GPU"):
        Environment(0, 1, 7, 8, beyond).join(60)


# ---------------------------------------------------------------- a rank that raises alone


def wait_or_raise(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            assert ip_address(connection.laddr.ip.removeprefix("::ffff:")).is_loopback
    if environment.rank == 1:
        raise UserError("rank 1 cannot go on")
    environment.barrier()
    raise AssertionError("nobody came")


def alone(rank: int, run: Path, port: int) -> tuple[str, bool]:
    """What a rank is told, and whether it left its peers before it was told."""
    dist.barrier()
    dist.destroy_process_group()
    os.environ["MASTER_PORT"] = str(port)
    config = load(run, ("launch.timeout=100",))
    with pytest.raises(UserError) as error:
        launch(wait_or_raise, config, RunFolder(Path(config.run)))
    left = not dist.is_initialized()
    os.environ.pop("MASTER_PORT")
    if rank == 1:
        dist.destroy_process_group()  # as its end does, which rank 0 waits for
    return str(error.value), left


def test_a_rank_that_raises_alone_does_not_wait_for_its_peers(run: Path) -> None:
    folder = RunFolder.create(load(run), resume=False)
    folder.error_file.unlink(missing_ok=True)
    results = run_processes(2, alone, run, free_port())
    assert [line for line, _ in results] == ["rank 1 cannot go on"] * 2
    assert not results[1][1]  # to leave it may wait for them, as NCCL's groups do


def command(rank: int, port: int, arguments: list[str], log: Path) -> None:
    """Runs a command as torchrun's rank `rank` of two; what it prints goes to `log`."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["shardrec", *arguments]
    main()


def test_a_command_of_several_ranks_ends_with_the_line_of_the_one_that_raised(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    context = forkserver()
    settings = (f"run={tmp_path}/run", "model=own_model:Model", f"import_from={tmp_path}")
    arguments, port = ["train", str(run), *(part for s in settings for part in ("--set", s))], free_port()
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    ranks = [context.Process(target=command, args=(rank, port, arguments, logs[rank])) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)
    assert [process.exitcode for process in ranks] == [1, 1]
    for log in logs:
        assert log.read_text().splitlines()[-1] == "shardrec: error: rank 1 cannot go on"


# ---------------------------------------------------------------- ranks that take longer than others


class LateTrainer(Trainer):
    """Rank 1 has far more to do before its first step than rank 0."""

    def _count_samples(self) -> None:
        if self.environment.rank == 1:
            time.sleep(1)
            (self.folder.path / "rank-1-is-ready").touch()


def late(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    LateTrainer(config, folder, environment).restore()
    return {"all": (folder.path / "rank-1-is-ready").exists()}


def restored(rank: int, run: Path, path: str) -> dict[str, Any]:
    return launch(late, load(run, (f"run={path}",)), RunFolder(Path(path)))


def test_no_rank_goes_on_before_all_have_restored(run: Path, tmp_path: Path) -> None:
    RunFolder.create(load(run, (f"run={tmp_path}/run",)), resume=False)
    assert run_processes(2, restored, run, f"{tmp_path}/run") == [{"all": True}] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("workers", [None, 1])
def test_a_gpu_that_is_asked_for_and_not_there_is_one_line(workers: int | None) -> None:
    with pytest.raises(UserError, match=r"launch.device is cuda, but no GPU is found here; set it to cpu or auto"):
        expected_environment(LaunchConfig(device="cuda", workers=workers))
