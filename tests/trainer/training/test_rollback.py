"""A run that diverges goes back to its last good checkpoint by itself, where the run file says so."""

import shutil
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_run import train_run
from tests.trainer.recorded import assert_same_checkpoint, train_in_processes
from tests.trainer.small_run import run_file, write_data

GOOD, STEPS = 3, 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("rollback") / "data", rows=600)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    """A run whose first three steps are made at sane rates, and the next ones at rates that the test names."""
    every_step = {"max_steps": GOOD, "epochs": 4, "checkpoint": {"every_steps": 1, "keep": 20}}
    path = run_file(tmp_path / "run.yaml", data, trainer=every_step, optimizer={"tables": {"name": "sgd"}})
    train_run(load(path), quiet=True)
    return path


WILD = 300.0
"""A rate of tables under which the loss leaves all proportion within a few steps."""


def rates(factor: float) -> tuple[str, str]:
    return f"optimizer.tables.learning_rate={WILD * factor}", f"optimizer.tower.learning_rate={0.01 * factor}"


def by_hand(path: Path) -> tuple[int, str]:
    """Goes on from the good checkpoint whenever a run diverges, at half the rates; how often, and the last line."""
    line = ""
    for times in range(4):
        try:
            train_run(load(path, [*rates(0.5**times), f"trainer.max_steps={STEPS}"]), resume=True, quiet=True)
            return times, line
        except UserError as error:
            line = str(error)
    return 4, line


def test_it_goes_on_as_if_it_had_been_resumed_with_lower_rates(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "by-hand"
    shutil.copytree(run, other)
    moved = path.with_name("other.yaml")
    moved.write_text(path.read_text().replace(str(run), str(other)))
    times, _ = by_hand(moved)
    assert 1 <= times <= 3
    config = load(path, [*rates(1), f"trainer.max_steps={STEPS}", "trainer.on_divergence=rollback"])
    summary = train_run(config, resume=True, quiet=True)
    assert summary and (summary["first_step"], summary["steps"]) == (GOOD, STEPS)
    assert_same_checkpoint(*(folder / f"checkpoints/step-{STEPS}" for folder in (run, other)))
    folder = RunFolder.open(run)
    rolled = [record["rollbacks"] for record in folder.records() if record["kind"] == "rollback"]
    assert rolled[-1] == times
    assert summary["rollbacks"] == times
    said = capfd.readouterr().err.replace("\n", " ")
    assert said.count("; went back to step-") == times and f"goes on with {0.5**times:g} of the learning rates" in said


def test_two_ranks_go_back_together(data: Path, tmp_path: Path) -> None:
    """From a first good step on: rates are wild from the start."""
    settings = {"max_steps": STEPS, "epochs": 4, "checkpoint": {"every_steps": 1}, "on_divergence": "rollback"}
    path = run_file(tmp_path / "run.yaml", data, trainer=settings, optimizer={"tables": {"name": "sgd"}})
    (result,) = train_in_processes(2, path, rates(1))
    assert result["steps"] == STEPS and len(result["losses"]) > STEPS
    assert RunFolder.open(tmp_path / "run").records()[-1]["kind"] == "end"


def test_a_run_that_diverges_at_any_rate_ends(path: Path) -> None:
    settings = ["optimizer.tables.learning_rate=1e6", f"trainer.max_steps={STEPS}", "trainer.on_divergence=rollback"]
    with pytest.raises(UserError, match=r"nothing was updated; checkpoint step-\d is good"):
        train_run(load(path, settings), resume=True, quiet=True)
