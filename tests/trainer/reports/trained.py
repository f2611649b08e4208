"""A small finished run whose names and settings are markup, for pages to show as text."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.trainer.command_line import shardrec
from tests.trainer.small_run import SCHEMA, run_file, write_data

SCRIPT = "<script>alert(1)</script>"


def train_named(folder: Path) -> Path:
    """Trains on data in which a feature and its values are called as scripts are; returns the run folder."""
    write_data(folder / "data", rows=1200)
    features = [
        f.model_copy(update={"name": SCRIPT, "column": SCRIPT}) if f.name == "kind" else f for f in SCHEMA.features
    ]
    SCHEMA.model_copy(update={"features": tuple(features)}).save(folder / "data/schema.yaml")
    for path in (folder / "data").rglob("*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.rename_columns([SCRIPT if name == "kind" else name for name in rows.column_names]), path)
    path = run_file(
        folder / "run.yaml",
        folder / "data",
        run=str(folder / "<i>run"),
        trainer={"early_stopping": {"metric": "auc", "patience": 1}, "epochs": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        shardrec(patch, "train", path, "--quiet")
    return folder / "<i>run"
