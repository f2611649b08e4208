"""Run folders: never mixed up, never half-written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import failure_left, leave_failure
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.training.resuming import check_stages_folder


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
    for kind in ("validation", "test"):
        folder.record(kind, 20, {"auc": 0.7})
    folder.forget_records_after(20, is_evaluated=False)
    assert [(r["kind"], r["step"]) for r in folder.records()] == [("train", 10), ("train", 20)]
    assert all(json.loads(line) for line in folder.metrics_file.read_text().splitlines())


def test_the_first_failure_counts(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    leave_failure(folder, UserError("the cause"))
    leave_failure(folder, UserError("a consequence"))
    assert str(failure_left(folder)) == "the cause"


def test_a_discarded_run_takes_nothing_of_the_users_with_it(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder.create(config, resume=False)
    for name in ("driver.log", "rank-0.log", "progress.json"):
        (folder.logs / name).write_text("")
    (folder.checkpoints / ".step-4.tmp" / "tables").mkdir(parents=True)
    (folder.checkpoints / ".step-4.tmp" / "tables" / "a.safetensors").write_text("")
    mine = [folder.path / "notes.txt", folder.logs / "what I saw.txt", folder.path / "vocabularies" / "mine"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "driver.log").write_text("precious")
    (folder.path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    folder.discard()
    assert {path for path in folder.path.rglob("*") if path.is_file()} == set(mine)
    assert (tmp_path / "elsewhere" / "driver.log").exists()


@pytest.mark.parametrize("was_there", [True, False])
def test_a_discarded_folder_goes_with_its_lock_unless_it_was_there_before(config: RunConfig, was_there: bool) -> None:
    path = Path(config.run)
    if was_there:
        path.mkdir()
    with locked(path, "train"):
        folder = RunFolder.create(config, resume=False)
        (path / "checkpoints" / ".step-4.tmp" / "tables").mkdir(parents=True)  # no file of which is written yet
        folder.mark_best(3)  # which was set aside, and removed
        folder.discard()
    assert path.exists() is was_there
    assert not was_there or not any(path.iterdir())


@pytest.mark.parametrize("name", ["../../precious", "/etc/passwd", "a/../../b", "config.yaml", "checkpoints/best"])
def test_a_schema_writes_only_its_own_files_into_a_run(config: RunConfig, tmp_path: Path, name: str) -> None:
    ids = {"kind": "identity", "num_ids": 3, "prepared": {"kind": "vocabulary", "path": name, "size": 2}}
    declared = {"features": [{"kind": "id", "name": "a", "ids": ids}]}
    (tmp_path / "data" / "schema.yaml").write_text(yaml.safe_dump(declared))
    (tmp_path / "data" / "checkpoints").mkdir()
    for place in (tmp_path / "data", tmp_path / "data" / "checkpoints"):
        (place / Path(name).name).write_text("theirs")
    with pytest.raises(UserError, match=r"must stay inside its folder|called .*, as one of a run is"):
        RunFolder.create(config, resume=False)
    assert not any(path.read_text() == "theirs" for path in Path(config.run).rglob("*") if path.is_file())


def test_a_link_leads_no_vocabulary_out_of_its_folder(config: RunConfig, tmp_path: Path) -> None:
    ids = Identity(num_ids=3, prepared=Vocabulary(path="vocabularies/a.parquet", size=2))
    schema = Schema(features=(IdFeature(name="a", ids=ids),))
    schema.save(tmp_path / "data" / "schema.yaml")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.parquet").write_text("precious")
    (tmp_path / "data" / "vocabularies").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="a link leads out of"):  # read
        RunFolder.create(config, resume=False)
    (tmp_path / "data" / "vocabularies").unlink()
    (tmp_path / "data" / "vocabularies").mkdir()
    (tmp_path / "data" / "vocabularies" / "a.parquet").write_text("theirs")
    (Path(config.run) / "vocabularies").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="a link leads out of"):  # written
        RunFolder(Path(config.run)).describe(config)
    assert (tmp_path / "secret" / "a.parquet").read_text() == "precious"


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"null", b'{"kind": "train"}', b'{"kind": 1, "step": 2}', b'{"step": "2", "kind": "x"}', b"["]
)
def test_a_damaged_record_is_named_and_a_last_one_cut_short_is_not(config: RunConfig, line: bytes) -> None:
    folder = RunFolder.create(config, resume=False)
    folder.record("train", 1, {})
    whole = folder.metrics_file.read_bytes()
    folder.metrics_file.write_bytes(whole + line)
    assert [r["step"] for r in folder.records()] == [1]
    folder.metrics_file.write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is not a record"):
        folder.records()


@pytest.mark.parametrize(
    "content", [b"\xff", b"[]", b"{", b"1" * 5000, b"[" * 5000, b'{"metrics": 3}', b'{"steps": "x"}']
)
def test_a_damaged_summary_is_one_line(config: RunConfig, content: bytes) -> None:
    folder = RunFolder.create(config, resume=False)
    folder.summary_file.write_bytes(content)
    with pytest.raises(UserError, match="no run's summary"):
        folder.summary()


@pytest.mark.parametrize(
    "stages", ["", "stages: 1", "stages: [1]", "stages: []", "stages: [{name: ../x}]", "stages: [{}]", "- a", "\x00"]
)
def test_damaged_stages_are_one_line(config: RunConfig, stages: str) -> None:
    folder = RunFolder.create(config, resume=False)
    folder.stages_file.write_text(stages)
    with pytest.raises(UserError, match=r"stages"):
        RunFolder.open(folder.path)


@pytest.mark.parametrize("name", ["checkpoints", "logs", "tensorboard"])
def test_a_run_does_not_go_on_through_links(config: RunConfig, tmp_path: Path, name: str) -> None:
    folder, elsewhere = RunFolder.create(config, resume=False), tmp_path / "another"
    elsewhere.mkdir()
    shutil.rmtree(folder.path / name, ignore_errors=True)
    (folder.path / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=rf"{name}: a link to .*another, through which nothing is written or removed"):
        RunFolder.create(config, resume=True)
    assert list(elsewhere.iterdir()) == []


def test_stages_do_not_go_on_through_links(config: RunConfig, tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    whole.stages_file.touch()
    (whole.path / "first").symlink_to(tmp_path)
    with pytest.raises(UserError, match="whole/first: a link to"):
        check_stages_folder(whole, ["first"], resume=True)


def test_a_link_as_run_is_the_users_own_and_is_cleared_as_any(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    Path(config.run).symlink_to(tmp_path / "disk")
    folder = RunFolder.create(config, resume=False)
    (tmp_path / "disk" / "notes").write_text("mine")
    folder.discard()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"notes"}


@pytest.mark.parametrize("name", [".lock", "LOGS/x", "Config.yaml"])
def test_a_vocabulary_takes_no_place_of_the_runs(config: RunConfig, name: str) -> None:
    folder = Path(config.data.schema_folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    Schema(features=(IdFeature(name="a", ids=Vocabulary(path=name, size=3)),)).save(folder / "schema.yaml")
    with pytest.raises(UserError, match="as one of a run is"):
        RunFolder.create(config, resume=False)


def test_names_that_are_not_quite_a_steps_are_none(config: RunConfig) -> None:
    folder = RunFolder.create(config, resume=False)
    complete(folder, 7)
    for name in ("step-008", "step-\u0669", "step-1 "):
        (folder.checkpoints / name).mkdir()
        (folder.checkpoints / name / "manifest.json").write_text("{}")
    assert folder.steps() == [7]
    for mark in ("/dev/zero", str(folder.checkpoints)):  # without an end, and none at all
        (folder.checkpoints / "best").unlink(missing_ok=True)
        (folder.checkpoints / "best").symlink_to(mark)
        assert folder.best_step() is None
