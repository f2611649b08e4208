"""Whatever ends a training is told in one line and a status; one that is told to end leaves a checkpoint first."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.stop_request import ask_to_end
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.trainer import Trainer
from tests.trainer.recorded import assert_same_checkpoint
from tests.trainer.small_run import run_file, write_data
from tests.trainer.started import started
from tests.trainer.torchrun import torchrun

STEPS = 400
ON_RAY = ("--set", "launch.workers=2", "--set", "launch.backend=ray", "--set", "launch.retries=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("endings") / "data", rows=1200)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    settings = {"epochs": 99, "max_steps": STEPS, "evaluation": {"every_epochs": 99}}
    return run_file(tmp_path / "run.yaml", data, trainer=settings)


def until(holds: Callable[[], object], process: BaseProcess) -> None:
    while not holds():
        assert process.is_alive()
        time.sleep(0.01)


def trains(folder: Path) -> bool:
    """Says whether a run has made a step."""
    file = folder / "metrics.jsonl"
    return file.exists() and '"kind": "train"' in file.read_text()


def lines_of(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("shardrec: ")]


@pytest.mark.long
def test_a_training_that_is_terminated_can_be_gone_on_with(path: Path, tmp_path: Path) -> None:
    """What it comes to in the end is what it would have been, bit for bit."""
    process = started("train", path, "--quiet", log=tmp_path / "log")
    until(lambda: trains(tmp_path / "run"), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    folder = RunFolder.open(tmp_path / "run")
    step = max(folder.steps())
    assert 0 < step < STEPS
    said = f"shardrec: error: {folder.path}: was told to end, after step {step}; go on with --resume"
    assert lines_of(tmp_path / "log") == [said]
    train_run(load(path), resume=True, quiet=True)
    train_run(load(path, [f"run={tmp_path}/whole"]), quiet=True)
    assert_same_checkpoint(folder.checkpoint(STEPS), tmp_path / f"whole/checkpoints/step-{STEPS}")


def test_a_wish_that_comes_too_late_is_forgotten(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Trainer.finish

    def late(trainer: Trainer) -> dict[str, Any]:
        ask_to_end(tmp_path / "run")
        return finish(trainer)

    monkeypatch.setattr(Trainer, "finish", late)
    summary = train_run(load(path, ["trainer.max_steps=2"]), quiet=True)
    assert summary and summary["finished"]
    assert not (tmp_path / "run/.end").exists()


def test_one_rank_that_is_told_ends_all(path: Path, tmp_path: Path) -> None:
    """SIGTERM comes to one of two ranks: both end after the same step, whose checkpoint is whole."""
    agent = torchrun(2, tmp_path, "train", path, "--quiet")
    until(lambda: trains(tmp_path / "run"), agent)
    os.kill(json.loads((tmp_path / "run/.lock").read_text())["pid"], signal.SIGTERM)
    agent.join()
    folder = RunFolder.open(tmp_path / "run")
    step = max(folder.steps())
    for rank in range(2):
        assert f"was told to end, after step {step}; go on with --resume" in lines_of(tmp_path / f"{rank}.log")[0]
    summary = train_run(load(path), resume=True, quiet=True)
    assert summary and (summary["first_step"], summary["steps"]) == (step, STEPS)


def test_a_rank_that_loses_its_peer_says_so_in_a_line(path: Path, tmp_path: Path) -> None:
    agent = torchrun(2, tmp_path, "train", path, "--quiet")
    until(lambda: trains(tmp_path / "run"), agent)
    leader = json.loads((tmp_path / "run/.lock").read_text())["pid"]
    (peer,) = [p for p in psutil.Process(agent.pid).children() if p.pid != leader]
    peer.kill()
    agent.join()
    (line,) = lines_of(tmp_path / "0.log")
    assert line.startswith("shardrec: error: rank 0 on ")
    assert ": lost the connection to another worker, which has ended" in line
    assert ", step " in line and line.endswith("; --resume goes on from the last checkpoint")
    assert "Traceback" not in (tmp_path / "0.log").read_text()


# ---------------------------------------------------------------- errors that nobody meant for users, and Ray

OWN_MODEL = """
import os
import pathlib
import signal
from shardrec import Fields, PointwiseConfig, PooledEmbeddings, Recommender

class Config(PointwiseConfig):
    pass

class Failing(Recommender):
    def __init__(self, fields: Fields, config: Config) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=4))
        super().__init__(inputs={"field": field}, task=config.build_task(fields.schema))
        self.steps = 0

    def forward(self, field):
        self.steps += 1
        if self.steps == 3 and os.environ.get("RANK", "1") == "1":
            failed = pathlib.Path(__file__).with_name("failed")
            if failed.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            failed.touch()
            raise LookupError("the tower is lost\\nin space")
        return field.sum((1, 2))
"""


@pytest.fixture
def failing(path: Path) -> Path:
    """A run file of a model of one's own that fails in step 3, on the second worker where there are two.

    Where it is tried again, it kills its process.
    """
    (path.parent / "own.py").write_text(OWN_MODEL)
    content = yaml.safe_load(path.read_text()) | {"model": {"name": "own:Failing"}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_an_error_of_a_model_is_a_line_that_names_its_place(failing: Path, tmp_path: Path) -> None:
    process = started("train", failing, "--trust", "--quiet", log=tmp_path / "log")
    process.join()
    assert process.exitcode == 1
    (line,) = lines_of(tmp_path / "log")
    assert line.startswith(
        "shardrec: error: step 3: LookupError: the tower is lost in space (own.py:23); its traceback is in "
    )
    log = Path(line.partition(" is in ")[2].partition(";")[0])
    assert "raise LookupError" in log.read_text()


@pytest.mark.long
def test_an_error_on_a_ray_worker_is_a_line_that_names_the_worker(failing: Path, tmp_path: Path) -> None:
    process = started("train", failing, "--trust", "--quiet", *ON_RAY, log=tmp_path / "log")
    process.join()
    assert process.exitcode == 1
    (line,) = lines_of(tmp_path / "log")
    said = r"shardrec: error: rank 1 on \S+, step 3: LookupError: the tower is lost in space \(own.py:23\); its trace"
    assert re.match(said, line) and "rank-1.log; Ray's words are in " in line


@pytest.mark.long
def test_what_ended_the_last_try_is_told_and_not_what_ended_the_first(failing: Path, tmp_path: Path) -> None:
    words = (*ON_RAY[:-1], "launch.retries=1")
    process = started("train", failing, "--trust", "--quiet", *words, log=tmp_path / "log")
    process.join()
    line = lines_of(tmp_path / "log")[-1]
    assert re.match(r"shardrec: error: rank 1 \(process \d+ on \S+\) was ended from outside: ", line)


@pytest.mark.long
@pytest.mark.parametrize("how", ["terminated", "RayTrainWorker killed", "gcs_server killed"])
def test_a_run_on_ray_ends_in_a_line(path: Path, tmp_path: Path, how: str) -> None:
    process = started("train", path, "--quiet", *ON_RAY, log=tmp_path / "log")
    until(lambda: trains(tmp_path / "run"), process)
    assert process.pid is not None
    if how == "terminated":
        os.kill(process.pid, signal.SIGTERM)
    else:
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if how.split()[0] in (child.cmdline() or [""])[0]).kill()
    process.join()
    (line,) = lines_of(tmp_path / "log")
    if how == "terminated":
        step = max(RunFolder.open(tmp_path / "run").steps())
        assert line.endswith(f"was told to end, after step {step}; go on with --resume") and process.exitcode == 75
    elif how == "gcs_server killed":
        assert "the gcs_server process of the local Ray has ended, and with it all workers have ended; " in line
        assert process.exitcode == 1
    else:
        assert re.match(r"shardrec: error: rank [01] \(process \d+ on \S+\) was ended from outside: ", line)
        assert process.exitcode == 1
