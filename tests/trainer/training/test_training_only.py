"""What only training reads, DIEN's negatives: held-out rows and rows to be scored need no such columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.features.feature_kinds import DenseSequenceFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import assert_same_checkpoint
from tests.trainer.small_run import run_file

ITEMS = Identity(num_ids=31)
NEGATIVES, FALSE_PRICES = "negative_history", "negative_prices"
SCHEMA = Schema(
    features=(
        IdFeature(name="item", ids=ITEMS),
        *(
            SequenceFeature(name=name, ids=ITEMS, table="item", max_length=5, aligned="history")
            for name in ("history", NEGATIVES)
        ),
        *(DenseSequenceFeature(name=name, max_length=5, aligned="history") for name in ("prices", FALSE_PRICES)),
    ),
    keys=("item",),
)
RUN: dict[str, Any] = {
    "data": {"global_batch_size": 60},
    "model": {"name": "dien", "embedding_dim": 4, "mlp": {"hidden": [8]}},
    "trainer": {"epochs": 2, "tensorboard": False, "progressive_validation": True},
}


def write(folder: Path, held_out_negatives: bool) -> Path:
    for seed, (split, rows) in enumerate((("train", 300), ("validation", 130), ("test", 130))):
        draw = np.random.default_rng(seed)
        offsets = np.concatenate([[0], draw.integers(0, 6, rows).cumsum()]).astype(np.int32)
        table = {"item": pa.array(draw.integers(0, 31, rows)), "label": pa.array(draw.integers(0, 2, rows))}
        for name in ("history", NEGATIVES):
            table[name] = pa.ListArray.from_arrays(offsets, pa.array(draw.integers(0, 31, offsets[-1])))
        for name in ("prices", FALSE_PRICES):
            table[name] = pa.ListArray.from_arrays(offsets, pa.array(draw.normal(size=offsets[-1])))
        if split != "train" and not held_out_negatives:
            del table[NEGATIVES], table[FALSE_PRICES]
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.table(table), folder / split / "0.parquet", row_group_size=40)
    SCHEMA.save(folder / "schema.yaml")
    return folder


def test_held_out_rows_need_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training, evaluating and predicting give the same with and without."""
    found = {}
    for name, negatives in (("with", True), ("without", False)):
        data = write(tmp_path / f"data {name}", negatives)
        run = run_file(tmp_path / f"{name}.yaml", data, **RUN)
        shardrec(monkeypatch, "train", run, "--quiet")
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        capsys.readouterr()
        shardrec(monkeypatch, "evaluate", tmp_path / name, "--quiet")
        assert f"{summary['metrics']['test']['auc']:.4f}" in capsys.readouterr().out
        asked = ("--data", data / "test", "--out", tmp_path / f"scores {name}", "--explain", "--quiet")
        shardrec(monkeypatch, "predict", tmp_path / name, *asked)
        found[name] = summary["metrics"], pq.read_table(tmp_path / f"scores {name}")
    assert found["with"] == found["without"] and found["with"][1].num_rows == 130
    assert_same_checkpoint(tmp_path / "with/checkpoints/step-10", tmp_path / "without/checkpoints/step-10")


def test_training_rows_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data", False)
    run = run_file(
        tmp_path / "run.yaml", data, **RUN | {"data": {"global_batch_size": 60, "train": str(data / "test")}}
    )
    assert NEGATIVES in refused(monkeypatch, "train", run, "--quiet")
