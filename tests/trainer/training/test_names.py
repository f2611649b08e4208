"""Features and tables may be called anything: runs with such names are planned, trained, saved and resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, Feature, IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.planning.chart import draw_memory
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables.export import export_table
from shardrec.trainer.tables.report import table_report
from shardrec.trainer.training.train_run import train_run

ROWS, IDS = 32, 5
LIKE_ATTRIBUTES = ("type", "values", "keys", "items", "float", "train", "update", "forward", "training", "__init__")
LIKE_PATHS = ("a/b", "/", "..", ".", "../../x", "a\\b", "C:", "con", "-", "~", "a b", " ", "a.b", "a", "%2F", "a%2Fb")
LIKE_SYNTAX = ("a[0]", "[", "*", "{x}", "$a_{", ":cat:", "[bold]", "&a", "#", "'", '"', "1e3", "null", "yes", "1")
LIKE_KEYS = ("a@wide/a", "a@table:wide/a", "a@b", "a%40b", "@", "%", "wide/a", "table:a", "_x")
SEEN_ODDLY = (
    "x" * 200,
    "\U00036b41" * 40,
    "字" * 200,
    "\0",
    "\n\t\x1b[31m",
    "\u2028",
    "\ufeff",
    "\x85",
    "😀",
    "é",
    "e\u0301",
)
ALIKE = ("User", "user", "USER", "weight", "bias", "label ", "loss", "id", "vector")
NASTY = LIKE_ATTRIBUTES + LIKE_PATHS + LIKE_SYNTAX + LIKE_KEYS + SEEN_ODDLY + ALIKE

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200) | st.sampled_from(dir(nn.Module()))


def write(folder: Path, names: Sequence[str], model: str) -> dict[str, Any]:
    """Rows with a column called as each feature is, every third one dense; returns a run file."""
    draw = np.random.default_rng(0)
    features: list[Feature] = []
    columns: dict[str, Any] = {"the label": draw.integers(0, 2, ROWS).astype(np.float32)}
    for place, name in enumerate(names):
        dense = place % 3 == 2
        features.append(DenseFeature(name=name) if dense else IdFeature(name=name, ids=Identity(num_ids=IDS)))
        columns[name] = draw.random(ROWS) if dense else draw.integers(0, IDS, ROWS)
    Schema(features=tuple(features), labels=(Label(name="the label"),)).save(folder / "data/schema.yaml")
    for split in ("train", "validation"):
        (folder / "data" / split).mkdir()
        pq.write_table(pa.table(columns), folder / "data" / split / "0.parquet")
    ids = [f.name for f in features if isinstance(f, IdFeature)]
    return {
        "run": str(folder / "run"),
        "data": {"path": str(folder / "data"), "global_batch_size": 16, "features": list(names)},
        "model": {"name": model, "embedding_dim": 2, "mlp": {"hidden": [4]}},
        "tables": {f"deep/{name}" if model == "wide_deep" else name: {"dtype": "fp16"} for name in ids},
        "trainer": {"tensorboard": False},
        "launch": {"workers": 1, "threads": 1},
    }


def check_run(folder: Path, names: Sequence[str], model: str) -> None:
    """Plans, trains, saves, reads, exports and resumes a run whose features are called so."""
    (folder / "data").mkdir()
    run = write(folder, names, model)
    assert [f.name for f in Schema.load(folder / "data/schema.yaml").features] == list(names)
    plan = shardrec.plan(run)
    assert len(str(plan).splitlines()) == len(plan.plan.tables) + 3  # a line each
    shardrec.train(run)
    of_run = RunFolder(folder / "run")
    assert of_run.config().data.features == tuple(names)
    saved = SavedModel.read(of_run.checkpoint(of_run.steps()[-1]))
    assert saved.tables.keys() == plan.plan.tables.keys()
    assert table_report(folder / "run")["tables"].keys() == saved.tables.keys()
    assert len(shardrec.open(folder / "run").predict(folder / "data/validation")) == ROWS
    for number, table in enumerate([*saved.tables][:3]):
        export_table(folder / "run", table, folder / f"exported-{number}")
        assert pq.read_table(folder / f"exported-{number}").num_rows == IDS
    summary = train_run(shardrec.load(run, ["trainer.epochs=2"]), resume=True, quiet=True)
    assert summary is not None and summary["steps"] == 4
    draw_memory(plan.plan, folder / "plan.png")


@pytest.mark.parametrize("model", ["wide_deep", "deepfm"])
def test_names_that_mean_something_elsewhere(tmp_path: Path, model: str) -> None:
    check_run(tmp_path, NASTY, model)


@settings(
    max_examples=2,
    phases=[Phase.explicit, Phase.generate],  # a run takes a second: no shrinking
    suppress_health_check=[HealthCheck.too_slow],
)
@example(names=["\U00036b41" * 40, "\U000917b4" * 40, "a number"])  # ten characters each, once they can be printed
@given(st.lists(NAMES.filter(lambda name: name != "the label"), min_size=3, max_size=20, unique=True))
def test_drawn_names(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    check_run(tmp_path_factory.mktemp("drawn"), names, "deepfm")


def test_the_empty_name_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        IdFeature(name="", ids=Identity(num_ids=1))
    (tmp_path / "schema.yaml").write_text("features: [{kind: id, name: '', ids: {kind: identity, num_ids: 1}}]")
    with pytest.raises(UserError, match=r"features.0.id.name: .* at least 1 character"):
        Schema.load(tmp_path / "schema.yaml")
