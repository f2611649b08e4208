"""A run that is told to end loses nothing that was trained, or scored before that, and begins where it ended."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from shardrec.data_pipeline.errors import ResumableError
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.leaving import Leaving
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.trainer import Trainer
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("leaving") / "data", rows=1200)


def leaving_after(
    config: RunConfig, folder: RunFolder, environment: Environment, *, step: int, blueprint: Any = None
) -> dict[str, Any]:
    """Trains until a step, after which it was told to end."""
    trainer = Trainer(config, folder, environment, blueprint)
    trainer.restore()
    trainer.fit(lambda: Leaving.END if trainer.state.position.step == step - 1 else Leaving.NO)
    return trainer.finish()


def test_rows_that_were_scored_before_it_ends_are_recorded(data: Path, tmp_path: Path) -> None:
    settings = {
        "epochs": 4,
        "evaluation": {"every_epochs": 99},
        "max_steps": 10,
        "log_every_steps": 5,
        "progressive_validation": True,
    }
    path = run_file(tmp_path / "run.yaml", data, trainer=settings | {"checkpoint": {"every_steps": 100}})
    train_run(load(path, [f"run={tmp_path}/whole"]), quiet=True)
    config = load(path)
    with pytest.raises(ResumableError, match="after step 7"):
        launch(leaving_after, config, RunFolder.create(config, resume=False), step=7)
    train_run(config, resume=True, quiet=True)
    lines = [
        [r for r in RunFolder.open(tmp_path / name).records() if r["kind"] == "progressive"]
        for name in ("run", "whole")
    ]
    first, second = ({record["step"] for record in of_one} for of_one in lines)
    assert first - second == {7}
    assert sum(record["rows"] for record in lines[0]) == sum(record["rows"] for record in lines[1])


def going_back(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Any = None
) -> dict[str, Any]:
    """Trains two steps, goes back to the first checkpoint, and is told to end after the second step."""
    trainer = Trainer(config, folder, environment, blueprint)
    trainer.restore()
    for trainer.state.total_steps in (1, 2):
        trainer.fit()
    shutil.rmtree(folder.checkpoint(2))
    trainer.restore()
    trainer.state.total_steps = 3
    with pytest.raises(ResumableError, match="after step 2"):
        trainer.fit(lambda: Leaving.END)
    return {"steps": folder.steps()}


def test_a_step_that_was_made_again_is_saved_again(data: Path, tmp_path: Path) -> None:
    """As after a rollback: the first checkpoint of that step is no longer there."""
    config = load(run_file(tmp_path / "run.yaml", data, trainer={"evaluation": {"every_epochs": 99}}))
    assert launch(going_back, config, RunFolder.create(config, resume=False))["steps"] == [1, 2]
