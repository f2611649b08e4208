"""Run files of stages and of single runs that start from others."""

from pathlib import Path
from typing import Any

import yaml

from tests.trainer.small_run import run_file

FM = {"name": "fm", "embedding_dim": 4}
FNN = {"name": "fnn", "embedding_dim": 4, "mlp": {"hidden": [8]}}
WIDE_DEEP = {"name": "wide_deep", "embedding_dim": 4, "mlp": {"hidden": [8]}}
ALL_OF_AN_FM = {"tables": {"*": {}}, "parameters": {"linear.*": {}}}
WIDE_AND_DEEP_OF_AN_FM = {
    "tables": {"wide/*": {"from": "*", "columns": [0, 1]}, "deep/*": {"from": "*", "columns": [1, None], "scale": 0.5}},
    "parameters": {"linear.*": None},
}


def written(folder: Path, name: str, data: Path | None = None, model: Any = None, **sections: Any) -> Path:
    """A run file of any model: nothing of the default's stays."""
    path = run_file(folder / f"{name}.yaml", data or folder / "data", **sections)
    content = yaml.safe_load(path.read_text())
    del content["model"]
    path.write_text(yaml.safe_dump(content | ({"model": model} if model else {})))
    return path


def chain(folder: Path, name: str, data: Path, *stages: dict[str, Any], **sections: Any) -> Path:
    return written(folder, name, data, stages=list(stages), **sections)


def fm_then_fnn(folder: Path, data: Path, **trainer: Any) -> Path:
    fnn = {"name": "fnn", "model": FNN, "init_from": [{"stage": "fm", **ALL_OF_AN_FM}], "trainer": trainer}
    return chain(folder, "run", data, {"name": "fm", "model": FM}, fnn, trainer={"epochs": 1})
