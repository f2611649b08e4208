"""Runs whose tables decay by frequency: what is counted, when, and that checkpoints keep it."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from tests.trainer.recorded import RecordingTrainer, assert_same_checkpoint, whole_tables
from tests.trainer.small_run import run_file, write_data

ROWS = 600
STEPS = 3  # of an epoch
SETTINGS: dict[str, Any] = {
    "optimizer": {"tables": {"name": "adam", "learning_rate": 0.05, "weight_decay": 1.0, "decay": "frequency"}},
    "trainer": {"max_steps": 2 * STEPS, "checkpoint": {"every_steps": 2}, "evaluation": {"every_epochs": None}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("frequency") / "data", rows=ROWS)


def counting_worker(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """Trains; returns the summary with `rows_read`, the training rows that were read in counting and training."""
    trainer = RecordingTrainer(config, folder, environment)
    trainer.record()
    trainer.restore()
    trainer.fit()
    return trainer.finish() | {"rows_read": trainer.loader.rows_read}


def train(path: Path, overrides: tuple[str, ...] = (), *, resume: bool = False) -> dict[str, Any]:
    config = load(path, overrides)
    return launch(counting_worker, config, RunFolder.create(config, resume=resume))


def counted(data: Path, column: str, num_ids: int) -> list[int]:
    """In how many training rows each id occurs: by a loop over the files."""
    found: Counter[int] = Counter()
    for path in sorted((data / "train").glob("*.parquet")):
        for ids in pq.read_table(path, columns=[column])[column].to_pylist():
            found.update({ids} if isinstance(ids, int) else set(ids))
    return [found[i] for i in range(num_ids)]


def test_rows_are_counted_before_a_fresh_run_only(data: Path, tmp_path: Path) -> None:
    """Resumed runs go on bit for bit with the checkpoint's counts; a run that starts from another counts its own."""
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    whole = train(path, (f"run={tmp_path}/whole",))
    found = whole_tables(tmp_path / "whole/checkpoints/step-6")
    for name, ids in (("user", 301), ("item", 97), ("tags", 40), ("shelves", 11)):
        assert found[name]["samples"].tolist() == counted(data, name, ids), name
    assert whole["rows_read"] == (1 + 2) * (ROWS + 1)

    train(path, (f"trainer.max_steps={STEPS}",))
    assert train(path, resume=True)["rows_read"] == ROWS + 1
    assert_same_checkpoint(tmp_path / "run/checkpoints/step-6", tmp_path / "whole/checkpoints/step-6")

    other = write_data(tmp_path / "other", rows=240)
    today = (f"run={tmp_path}/today", f"data.path={other}", "trainer.max_steps=1", f"init_from={tmp_path}/whole")
    train(path, today)
    later = whole_tables(tmp_path / "today/checkpoints/step-1")
    assert later["tags"]["samples"].tolist() == counted(other, "tags", 40)
    assert (later["tags"]["steps"] >= found["tags"]["steps"]).all()


def test_drawn_negatives_are_samples_too(data: Path, tmp_path: Path) -> None:
    """The rows of the first epoch: every positive and its negatives are one sample of their user each."""
    shutil.copytree(data, tmp_path / "positive")
    for file in (tmp_path / "positive/train").glob("*.parquet"):
        rows = pq.read_table(file).drop_columns("label")
        pq.write_table(rows.append_column("label", pa.array(np.ones(len(rows), np.float32))), file)
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    roles = {"user": "user", "item": "item", "kind": "context", "price": "context"}
    schema["features"] = [f | {"role": roles[f["name"]]} for f in schema["features"] if f["name"] in roles]
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    settings = {"schema": str(tmp_path / "schema.yaml"), "negatives": {"per_positive": 2}}
    train(run_file(tmp_path / "run.yaml", tmp_path / "positive", **SETTINGS | {"data": settings}))
    found = whole_tables(tmp_path / "run/checkpoints/step-6")
    assert found["user"]["samples"].tolist() == [3 * n for n in counted(data, "user", 301)]
    assert found["item"]["samples"].sum() == 3 * (ROWS + 1)
    drawn = found["item"]["samples"] - torch.tensor(counted(data, "item", 97))
    assert (drawn >= 0).all() and drawn.unique().numel() > 5
