"""A worker that is much slower than the others is named, with how much slower it is."""

import re
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.pace import Pace
from shardrec.trainer.training.trainer import Trainer
from tests.processes import run_processes
from tests.trainer.small_run import run_file, write_data

SLOWER = 0.03  # seconds a step


def trained(rank: int, path: Path) -> None:
    config = load(path)
    folder = RunFolder.create(config, resume=False) if rank == 0 else RunFolder(Path(config.run))
    dist.barrier()
    environment = Environment.from_variables("cpu")
    environment.join(60)
    trainer = Trainer(config, folder, environment)
    if rank == 1:
        trainer.session.model.mlp.register_forward_pre_hook(lambda *_: time.sleep(SLOWER))
    trainer.restore()
    trainer.fit()


@pytest.mark.parametrize("batch_norm", [False, pytest.param(True, marks=pytest.mark.long)], ids=["", "batch norm"])
def test_a_slow_worker_is_named(tmp_path: Path, batch_norm: bool) -> None:
    """Also where towers themselves wait for one another, for the moments of a batch."""
    model = {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden": [16, 8], "batch_norm": batch_norm}}
    data = write_data(tmp_path / "data", rows=480)
    path = run_file(tmp_path / "run.yaml", data, model=model, trainer={"epochs": 25, "log_every_steps": 25})
    run_processes(2, trained, path)
    said = (RunFolder(tmp_path / "run").logs / "messages.txt").read_text()
    (line,) = [line for line in said.splitlines() if "slow" in line]
    found = re.search(r"rank 1 on \S+ is ([0-9.]+) times as slow as the other workers.*: ([0-9.]+) ms", line)
    assert found and float(found[1]) > 1.5 and float(found[2]) >= SLOWER * 1e3


def test_is_said_once_until_it_has_kept_up_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pace = Pace(Environment(0, 1, 0, 1, torch.device("cpu")), tmp_path)
    for seconds in (0.01, 0.001, 0.01, 0.01, 0.0011):
        pace._tell([("a", 0.001), ("b", seconds), ("c", 0.0012)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" is ")[0] for line in lines] == ["shardrec: rank 1 on b"] * 2
