"""A run reads the files that it started with, in one order, on all ranks; what is no data set is refused by a line."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.trainer.checkpoints.manifest import read_manifest, write_manifest
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer
from tests.processes import run_processes
from tests.trainer.command_line import refused, shardrec

SCHEMA = """
features:
- {kind: id, name: user, ids: {kind: identity, num_ids: 8}}
- {kind: id, name: item, ids: {kind: identity, num_ids: 8}}
"""
ROWS = {"user": list(range(8)), "item": list(range(7, -1, -1)), "label": [1, 0] * 4}


def write(path: Path, rows: dict[str, Any] = ROWS, group_rows: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, group_rows, compression="none", use_dictionary=False)


def run_file(folder: Path, schema: str = SCHEMA, **data: Any) -> Path:
    """A run of logistic regression on `folder`/data; 2 steps an epoch of 8 rows."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "schema.yaml").write_text(schema)
    content = {
        "run": str(folder / "run"),
        "data": {"path": str(folder / "data"), "global_batch_size": 4, **data},
        "model": "lr",
        "trainer": {"epochs": 1, "tensorboard": False},
        "launch": {"workers": 1, "threads": 1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


def days(folder: Path) -> None:
    for day in range(1, 12):
        write(folder / f"day_{day}.parquet", {"user": [day % 8], "item": [0], "label": [day % 2], "day": [day]})


# ---------------------------------------------------------------- order


def test_days_are_read_in_their_order(tmp_path, monkeypatch):
    days(tmp_path / "data" / "train")
    path = run_file(tmp_path, order="time", global_batch_size=1)
    shardrec(monkeypatch, "train", path, "--quiet")
    scores = tmp_path / "scores"
    shardrec(
        monkeypatch, "predict", tmp_path / "run", "--data", tmp_path / "data/train", "--out", scores, "--keys", "day"
    )
    assert pq.read_table(scores)["day"].to_pylist() == list(range(1, 12))


def files_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Any = None
) -> dict[str, Any]:
    """Trains; returns the files of all splits in the order in which they were read."""
    trainer = Trainer(config, folder, environment, blueprint)
    trainer.restore()
    trainer.fit()
    trainer.finish()
    validation = trainer.splits.to_score("validation")
    assert validation is not None
    return {
        name: [Path(file.path).name for file in loader.index.files]
        for name, loader in (("train", trainer.loader), ("validation", validation))
    }


def test_a_run_of_an_earlier_version_keeps_its_order_of_files(tmp_path):
    """It knew one fingerprint, without footers, of the training files in the order of plain strings."""
    for split in ("train", "validation"):
        days(tmp_path / "data" / split)
    path = run_file(tmp_path, global_batch_size=2)

    def train(*overrides: str) -> tuple[dict[str, Any], RunFolder]:
        config = load(path, overrides)
        folder = RunFolder.create(config, resume=bool(overrides))
        return launch(files_worker, config, folder), RunFolder(Path(config.run))

    seen, folder = train()
    by_number, by_name = [
        [f"day_{day}.parquet" for day in order] for order in (range(1, 12), sorted(range(1, 12), key=str))
    ]
    assert seen == {"train": by_number, "validation": by_number}
    manifest = folder.checkpoint(folder.steps()[-1]) / "manifest.json"
    content = read_manifest(manifest.parent)
    earlier = DataSet.open(tmp_path / "data" / "train", by_number=False).index.fingerprint.earlier
    del content["order"]["splits"]
    content["order"]["fingerprint"] = earlier
    write_manifest(manifest, content)
    for epochs in (2, 3):  # and keeps it in its own checkpoints
        seen, folder = train(f"trainer.epochs={epochs}")
        assert seen == {"train": by_name, "validation": by_name}
    assert "splits" in read_manifest(folder.checkpoint(folder.steps()[-1]))["order"]


# ---------------------------------------------------------------- files that change


def returning_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Any = None
) -> dict[str, Any]:
    """Goes on with a run, of whose files one is back only once the others were looked at."""
    away = Path(config.data.path) / "away"
    trainer = Trainer(config, folder, environment, blueprint)
    away.rename(away.with_name("train") / "day_3.parquet")
    trainer.restore()
    return {}


def test_a_file_that_returns_while_a_run_goes_on_is_told_of(tmp_path):
    """The run would else end where it does without that file: an epoch has as many steps as the first look says."""
    for split in ("train", "validation"):
        days(tmp_path / "data" / split)
        for late in (10, 11):  # so that names and numbers have one order
            (tmp_path / "data" / split / f"day_{late}.parquet").unlink()
    config = load(run_file(tmp_path, global_batch_size=2))
    launch(files_worker, config, RunFolder.create(config, resume=False))
    (tmp_path / "data/train/day_3.parquet").rename(tmp_path / "data/away")
    with pytest.raises(UserError, match=r"data/train/.* not those of the checkpoint"):
        launch(returning_worker, config, RunFolder.create(config, resume=True))


def rewriting_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Any = None
) -> dict[str, Any]:
    """Trains, while another program rewrites the file of `data.rewritten` after the first epoch."""
    trainer = Trainer(config, folder, environment, blueprint)
    trainer.restore()
    made = trainer.step

    def step(*arguments: Any, **rest: Any) -> None:
        made(*arguments, **rest)
        if trainer.state.position.step == 2:
            write(Path(os.environ["REWRITTEN"]), {**ROWS, "label": [0, 1] * 4})

    trainer.step = step  # type: ignore[method-assign]
    trainer.fit()
    return trainer.finish()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_file_that_is_rewritten_while_a_run_reads_it(tmp_path, monkeypatch, split):
    for name in ("train", "validation"):
        write(tmp_path / "data" / name / "0.parquet")
    monkeypatch.setenv("REWRITTEN", str(tmp_path / "data" / split / "0.parquet"))
    config = load(run_file(tmp_path), ("trainer.epochs=4", "trainer.evaluation.every_steps=1"))
    with pytest.raises(
        UserError, match=rf"{split}/0\.parquet: changed after the start .*go on with --resume"
    ) as caught:
        launch(rewriting_worker, config, RunFolder.create(config, resume=False))
    assert "\n" not in str(caught.value)


def test_files_that_are_replaced_before_a_run_goes_on(tmp_path, monkeypatch):
    for name in ("train", "validation", "test"):
        write(tmp_path / "data" / name / "0.parquet")
    path = run_file(tmp_path)
    shardrec(monkeypatch, "train", path, "--quiet")
    go_on = ("train", path, "--resume", "--quiet", "--set", "trainer.epochs=2")
    for name in ("train", "validation", "test"):
        file = tmp_path / "data" / name / "0.parquet"
        size = file.stat().st_size
        write(file, {**ROWS, "user": list(range(7, -1, -1)), "label": [0, 1] * 4})
        assert file.stat().st_size == size
        assert "are not those of the checkpoint" in refused(monkeypatch, *go_on)
        write(file)
    shutil.move(tmp_path / "data", tmp_path / "copy")  # as on another node
    assert "data" in refused(monkeypatch, *go_on)
    shardrec(monkeypatch, *go_on, "--set", f"data.path={tmp_path / 'copy'}")
    assert RunFolder(tmp_path / "run").steps()[-1] == 4


# ---------------------------------------------------------------- ranks


def lines_of_rank(rank: int, folder: Path, changes: list[str]) -> list[str]:
    """What a rank is told where rank 1 has other settings, files or another schema than rank 0."""
    lines = []
    for change in changes:
        os.chdir(folder / change / str(rank))
        config = load(Path("run.yaml"), ("trainer.seed=7",) if change == "settings" and rank else ())
        try:
            launch(files_worker, config, RunFolder(folder / "run"))
            lines.append("trained")
        except UserError as error:
            lines.append(str(error))
    return lines


def test_ranks_that_differ_are_refused_by_one_line(tmp_path):
    expected = {
        "settings": r"trainer.seed is 7, but 0 on rank 0; start all workers by the same command, with",
        "files": r"/proc/self/cwd/data/train/0\.parquet: another file than on rank 0 \(its footer .*; give all workers",
        "schema": r"the schema under /proc/self/cwd/data is another than on rank 0; give all workers the same data",
        "nothing": "",
    }
    for change in expected:
        for rank in range(2):
            place = tmp_path / change / str(rank)
            for split in ("train", "validation"):
                write(place / "data" / split / "0.parquet")
            run_file(place, path="/proc/self/cwd/data")  # one path, under which machines have different files
    write(tmp_path / "files/1/data/train/0.parquet", {**ROWS, "user": [7] * 8})
    (tmp_path / "schema/1/data/schema.yaml").write_text(SCHEMA.replace("num_ids: 8", "num_ids: 9"))
    for name in ("logs", "checkpoints"):
        (tmp_path / "run" / name).mkdir(parents=True)
    of_ranks = run_processes(2, lines_of_rank, tmp_path, list(expected))
    assert of_ranks[0] == of_ranks[1]
    assert of_ranks[0][-1] == "trained"
    for message, line in list(zip(expected.values(), of_ranks[0], strict=True))[:-1]:
        assert re.match(rf"rank 1 \(on .*\): {message}", line), line
        assert "\n" not in line


# ---------------------------------------------------------------- what is, and is no, data set


def test_columns_that_nothing_reads_may_differ(tmp_path, monkeypatch):
    write(tmp_path / "data/train/0.parquet", {**ROWS, "debug": [1] * 8})
    write(tmp_path / "data/train/1.parquet")
    shardrec(monkeypatch, "train", run_file(tmp_path), "--quiet")


def test_lists_of_categories_are_read_in_evaluation_as_in_training(tmp_path, monkeypatch):
    tags = pa.array([["a"], ["b"], ["c"], ["d"]]).cast(pa.list_(pa.dictionary(pa.int32(), pa.string())))
    rows = {"user": [0, 1, 2, 3], "item": [0, 1, 2, 3], "label": [0, 1, 0, 1], "tags": tags}
    write(tmp_path / "data/train/0.parquet", rows, group_rows=2)
    schema = SCHEMA + "- {kind: id_list, name: tags, ids: {kind: hash, num_ids: 8}}\n"
    shardrec(monkeypatch, "train", run_file(tmp_path, schema), "--quiet")
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--data", tmp_path / "data/train")


def test_a_delta_table_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "data/train/0.parquet")
    log = tmp_path / "data/train/_delta_log/00000000000000000001.json"
    log.parent.mkdir()
    log.write_text('{"remove":{"path":"0.parquet","dataChange":true}}\n')
    assert "data/train: is a table of Delta Lake" in refused(monkeypatch, "train", run_file(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_data_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    write(tmp_path / "data/train/0.parquet")
    write(tmp_path / "data/test/0.parquet")
    path = run_file(tmp_path)
    shardrec(monkeypatch, "train", path, "--quiet")
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    assert f"data.path: no folder {tmp_path / 'data'}" in refused(monkeypatch, "evaluate", tmp_path / "run")
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--data", tmp_path / "elsewhere/test")
