"""Run folders: never mixed up, never half-written."""

import json
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Identity, IdFeature, Schema
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = tmp_path / "data"
    data.mkdir()
    Schema(features=(IdFeature(name="a", ids=Identity(num_ids=3)),)).save(data / "schema.yaml")
    return parse({"run": str(tmp_path / "run"), "data": {"path": str(data)}, "model": "lr"}, "test")


def complete(folder: RunFolder, step: int) -> None:
    folder.checkpoint(step).mkdir()
    (folder.checkpoint(step) / "manifest.json").write_text("{}")


def test_a_new_folder_holds_all_that_it_needs(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    assert folder.schema() == config.load_schema()
    assert folder.config().model == {"name": "lr"}


def test_another_run_is_refused(config: RunConfig) -> None:
    RunFolder.create(config, resume=False)
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        RunFolder.create(config, resume=False)
    RunFolder.create(config, resume=True)
    other = config.model_copy(update={"model": {"name": "fm"}})
    with pytest.raises(UserError, match="a run of another model"):
        RunFolder.create(other, resume=True)


def test_a_folder_of_something_else_is_refused(config: RunConfig) -> None:
    Path(config.run).mkdir()
    (Path(config.run) / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a run folder and not empty"):
        RunFolder.create(config, resume=False)


def test_only_complete_checkpoints_count(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    for step in (100, 20):
        complete(folder, step)
    (folder.checkpoints / "step-300").mkdir()
    (folder.checkpoints / ".step-400.tmp").mkdir()
    assert folder.steps() == [20, 100]
    assert folder.choose_step() == 100
    folder.mark_best(20)
    assert folder.choose_step() == 20
    assert folder.choose_step(100) == 100
    with pytest.raises(UserError, match="of step 300; there is: 20, 100"):
        folder.choose_step(300)


def test_records_of_steps_that_are_done_again_are_dropped(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    for step in (10, 20, 30):
        folder.record("train", step, {"loss": step / 10})
    with folder.metrics_file.open("a") as file:
        file.write('{"kind": "train", "st')  # what a kill leaves
    folder.forget_records_after(20)
    assert [r["step"] for r in folder.records()] == [10, 20]
    assert all(json.loads(line) for line in folder.metrics_file.read_text().splitlines())


def test_the_first_failure_counts(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    folder.fail(UserError("the cause"))
    folder.fail(UserError("a consequence"))
    assert str(folder.failure()) == "the cause"
