"""A run on positives: negatives drawn for training, candidates ranked in evaluation, the test split on the record."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.inspection import inspect_run
from tests.trainer.recorded import train

SCHEMA = Schema(
    features=(
        IdFeature(name="user", role="user", ids=Identity(num_ids=40)),
        IdFeature(name="item", role="item", ids=Identity(num_ids=60)),
        IdFeature(name="brand", role="item", ids=Identity(num_ids=6)),
    ),
    group="user",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users like the items of their own brand; of ten items of it they have seven in training."""
    folder = tmp_path_factory.mktemp("negatives") / "data"
    draw = np.random.default_rng(0)
    liked = [draw.permutation(np.arange(user % 6, 60, 6)) for user in range(40)]
    splits = {"train": [(u, i, 1) for u in range(40) for i in liked[u][:7]]}
    for split, place in (("validation", 7), ("test", 8)):
        candidates = [[liked[u][place], *((u % 6 + 1 + np.arange(5)) % 60)] for u in range(40)]
        splits[split] = [(u, i, n == 0) for u in range(40) for n, i in enumerate(candidates[u])]
    for split, rows in splits.items():
        (folder / split).mkdir(parents=True)
        user, item, label = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        columns = {"user": user, "item": item, "brand": item % 6, "label": label}
        pq.write_table(pa.table(columns), folder / split / "0.parquet")
    SCHEMA.save(folder / "schema.yaml")
    return folder


def run_file(path: Path, data: Path, **sections: Any) -> Path:
    content: dict[str, Any] = {
        "run": str(path.with_suffix("")),
        "data": {"path": str(data), "global_batch_size": 100, "negatives": {"per_positive": 4}},
        "model": {"name": "fm", "embedding_dim": 4, "top_k": [1]},
        "optimizer": {"tables": {"name": "adagrad", "learning_rate": 0.3}},
        "trainer": {
            "epochs": 8,
            "evaluation": {"test": True},
            "early_stopping": {"metric": "ndcg@1", "patience": 8},
            "tensorboard": False,
        },
        "launch": {"threads": 1},
    }
    content |= {name: content[name] | section for name, section in sections.items()}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_on_positives(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data)
    inspect_run(load(path))
    result = train(path)
    assert result["rows"] == 8 * 40 * 7 * 5
    for start in range(0, 112, 14):
        rows = [row for batch in result["batches"][start : start + 14] for row in batch]
        assert np.bincount(rows).tolist() == [5] * 280
    records = RunFolder.open(load(path).run).records()
    steps = {kind: [r["step"] for r in records if r["kind"] == kind] for kind in ("validation", "test")}
    assert steps["validation"] == steps["test"] == [14 * epoch for epoch in range(1, 9)]
    best = next(r for r in records if r["kind"] == "validation" and r["step"] == result["best_step"])
    assert best["hr@1"] == max(r["hr@1"] for r in records if r["kind"] == "validation") > 0.9
    at_best = next(r for r in records if r["kind"] == "test" and r["step"] == result["best_step"])
    assert result["metrics"]["test"]["hr@1"] == pytest.approx(at_best["hr@1"])
    assert result["metrics"]["test"]["top_k_groups"] == 40


def test_a_model_of_two_halves_scores_drawn_rows_like_any_other(data: Path, tmp_path: Path) -> None:
    """Its users and items share a space, but its task is of single rows: each negative needs its user."""
    path = run_file(tmp_path / "run.yaml", data, model={"name": "two_tower", "mlp": {"hidden": [8]}})
    result = train(path)
    assert result["rows"] == 8 * 40 * 7 * 5
    best = next(r for r in RunFolder.open(load(path).run).records() if r.get("step") == result["best_step"])
    assert max(best["hr@1"], result["metrics"]["validation"]["hr@1"]) > 0.5  # one of six by chance


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"data": {"negatives": {"per_positive": 3}, "global_batch_size": 98}}, r"98 .* multiple of 4 .*: 64 or 128$"),
        ({"data": {"negatives": {"users": "user"}}}, r"unknown key 'users'; did you mean 'user'"),
        ({"data": {"negatives": {"items": "/nowhere/items.parquet"}}}, r"/nowhere/items\.parquet: no such"),
        ({"trainer": {"early_stopping": {"metric": "hr@10"}}}, r"unknown metric to select by 'hr@10'"),
    ],
)
def test_what_is_wrong_with_a_run_file(data: Path, tmp_path: Path, sections: dict[str, Any], problem: str) -> None:
    path = run_file(tmp_path / "run.yaml", data)
    content = yaml.safe_load(path.read_text())
    for name, section in sections.items():
        content[name] |= section
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=problem):
        inspect_run(load(path))
