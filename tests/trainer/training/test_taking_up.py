"""A run that is taken up in vain is left as it was found: its checkpoints, its best step, its files."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardrec.data_pipeline.errors import ResumableError, UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.lock import LOCK
from shardrec.trainer.run_folder.owner import Owner
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.trainer import Trainer
from tests.trainer.small_run import run_file, write_data
from tests.trainer.torchrun import torchrun

SETTINGS: dict[str, Any] = {
    "epochs": 20,
    "max_steps": 6,
    "checkpoint": {"every_steps": 2, "keep": 9},
    "evaluation": {"every_steps": 2},
}
MORE = ("trainer.max_steps=8",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("taking_up") / "data", rows=1200)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    """A run file whose run is finished."""
    path = run_file(tmp_path / "run.yaml", data, trainer=SETTINGS)
    train_run(load(path), quiet=True)
    return path


def files(folder: Path) -> dict[Path, bytes]:
    """All that commands read of a run; logs and events are added to."""
    left_out = {"logs", "tensorboard", "launches.jsonl"}
    found = (p for p in folder.rglob("*") if p.is_file() and not left_out & {*p.relative_to(folder).parts})
    return {p: p.read_bytes() for p in found}


@pytest.mark.parametrize("error", [UserError("rows are bad"), RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_run_that_goes_back_to_a_step_in_vain_is_as_it_was(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = RunFolder.open(tmp_path / "run")
    before, steps = files(folder.path), folder.steps()

    def fails(trainer: Trainer) -> None:
        assert folder.summary() is None and len(folder.records()) > 0
        assert folder.steps() == [2]
        folder.mark_best(2)
        raise error

    monkeypatch.setattr(Trainer, "log", fails)  # the first thing that is done after a step
    with pytest.raises(type(error)):
        train_run(load(path, MORE), resume=True, step=2, quiet=True, embedded=True)
    assert files(folder.path) == before
    assert folder.steps() == steps
    monkeypatch.undo()
    again = train_run(load(path), resume=True, quiet=True)
    assert again and again["steps"] == 6, "left as it is"


def test_who_is_told_to_end_can_be_gone_on_with(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before it made a checkpoint: the settings that it began with are those that it goes on by."""

    def told(trainer: Trainer) -> None:
        raise ResumableError("was told to end")

    monkeypatch.setattr(Trainer, "log", told)
    with pytest.raises(ResumableError):
        train_run(load(path, MORE), resume=True, quiet=True, embedded=True)
    monkeypatch.undo()
    summary = train_run(load(tmp_path / "run/config.yaml"), resume=True, quiet=True)
    assert summary and summary["steps"] == 8


def test_what_came_to_something_stays(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(trainer: Trainer) -> None:
        if trainer.state.position.step == 5:
            raise UserError("rows are bad")

    monkeypatch.setattr(Trainer, "log", fails)
    with pytest.raises(UserError):
        train_run(load(path, [*MORE, "trainer.log_every_steps=1"]), resume=True, step=2, quiet=True)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.steps() == [2, 4] and folder.summary() is None
    assert (folder.path / "checkpoints/step-6.set-aside").exists()


def test_ranks_that_are_started_again_go_on_from_what_they_made(path: Path, tmp_path: Path) -> None:
    """They are given --step 2 anew, whose checkpoint was pruned meanwhile."""
    keep_one = [f"trainer.{setting}" for setting in ("max_steps=40", "epochs=99", "checkpoint.keep=1")]
    flags = [word for setting in keep_one for word in ("--set", setting)]
    agent = torchrun(2, tmp_path, "train", path, "--quiet", "--resume", "--step", "2", *flags, restarts=1)
    checkpoints = tmp_path / "run/checkpoints"
    while not any(int(p.name[5:]) > 8 for p in checkpoints.glob("step-*[0-9]")):
        assert agent.is_alive()
        time.sleep(0.01)
    psutil.Process(_leader(tmp_path / "run")).kill()
    agent.join()
    assert agent.exitcode == 0
    folder = RunFolder.open(tmp_path / "run")
    summary = folder.summary()
    assert summary and summary["steps"] == 40 and summary["first_step"] > 8
    aside = {p.name for p in checkpoints.iterdir() if "set-aside" in p.name}
    assert aside == {"step-4.set-aside", "step-6.set-aside"}


def _leader(folder: Path) -> int:
    owner = Owner.parse((folder / LOCK).read_text())
    assert owner and owner.alive
    return owner.pid
