"""A small model, trained and exported; and copies of its bundle that score otherwise, or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from shardrec.trainer.export.export import export_bundle
from tests.trainer.recorded import train
from tests.trainer.small_run import run_file, table, write_data

ROWS: list[dict[str, Any]] = [
    {name: value for name, value in row.items() if name not in ("label", "weight")}
    for row in table(40, seed=7).to_pylist()
]


def deepfm_bundle(folder: Path) -> Path:
    """The bundle of a small DeepFM, made in `folder`."""
    path = run_file(folder / "run.yaml", write_data(folder / "data", 480), trainer={"epochs": 1})
    train(path)
    export_bundle(path.with_suffix(""), folder / "deepfm", checked_rows=0)
    return folder / "deepfm"


def copied(bundle: Path, name: str) -> Path:
    """A copy beside `bundle`."""
    return Path(shutil.copytree(bundle, bundle.with_name(name)))


def calibrated(bundle: Path, name: str) -> Path:
    """A copy whose scores differ from those of `bundle`."""
    copy = copied(bundle, name)
    of = json.loads((copy / "bundle.json").read_text())["run"]["checkpoint"]
    (copy / "calibration.json").write_text(json.dumps({"method": "platt", "a": 0.5, "b": -1.0, "checkpoint": of}))
    return copy


def endless(bundle: Path, name: str) -> Path:
    """A copy whose opening does not end while `calibration.json`, a pipe, is open for writing."""
    copy = copied(bundle, name)
    os.mkfifo(copy / "calibration.json")
    return copy


def changed(bundle: Path, name: str) -> Path:
    """A copy that reads and predicts something else."""
    copy = copied(bundle, name)
    manifest = json.loads((copy / "bundle.json").read_text().replace('"price"', '"cost"'))
    manifest["predicts"]["task"] = "Regression"
    for rows in (manifest["raw"], manifest["prepared"]):
        rows["columns"]["kind"] += "?"
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy


def broken(bundle: Path, name: str) -> Path:
    """A copy whose largest table's file is cut."""
    copy = copied(bundle, name)
    file = max((copy / "tables").iterdir(), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:100])
    return copy
