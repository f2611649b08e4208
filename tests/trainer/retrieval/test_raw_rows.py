"""Users are asked about by rows as they were before preparation, as a bundle of the same run reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec
from shardrec.data_pipeline.prepare.importers.delimited import prepare_delimited
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command

RECIPE = """
features:
- {kind: id, name: user, column: customer, ids: {kind: vocabulary}, role: user}
- {kind: id, name: item, column: product, ids: {kind: vocabulary}, type: integer, role: item}
- {kind: id_list, name: history, column: past, ids: {kind: vocabulary}, type: integer, table: item, separator: " ",
   max_length: 4, role: user}
- {kind: id, name: device, ids: {kind: hash, num_ids: 8}, role: user}
- {kind: id, name: age, ids: {kind: bucketize, boundaries: [18, 30, 45]}, missing: row, role: user}
- {kind: dense, name: hour, transforms: [{kind: standardise}], role: user}
- {kind: id, name: brand, ids: {kind: vocabulary}, role: item}
- {kind: dense, name: price, transforms: [{kind: log}], role: item}
labels: [{name: bought}]
weight: worth
group: customer
time: at
split: {by: hash, columns: [customer, product], fractions: {train: 0.9, validation: 0.1, test: 0}}
"""
USER = ("user", "history", "device", "age", "hour")
ITEMS = 100 + 3 * np.arange(12)
"""Numbers that are no table rows, but for some that could be."""


def log() -> pa.Table:
    draw = np.random.default_rng(0)
    past = [" ".join(map(str, draw.choice(ITEMS, draw.integers(0, 6)))) for _ in range(300)]
    return pa.table(
        {
            "customer": [f"c{n}" for n in draw.integers(0, 20, 300)],
            "product": draw.choice(ITEMS, 300),
            "past": past,
            "device": draw.choice(["phone", "desk"], 300),
            "age": [None if n < 15 else int(n) for n in draw.integers(10, 60, 300)],
            "hour": draw.normal(12, 5, 300),
            "brand": draw.choice(["acme", "zenith"], 300),
            "price": draw.random(300),
            "worth": np.ones(300),
            "at": np.arange(300),
            "bought": (draw.random(300) < 0.6).astype(int),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    log().to_pandas().to_csv(folder / "log.csv", index=False)
    (folder / "recipe.yaml").write_text(RECIPE)
    prepare_delimited(Inputs([folder / "log.csv"]), folder / "recipe.yaml", Output(folder / "data"))
    declared: dict[str, Any] = {
        "run": str(folder / "run"),
        "data": {"path": str(folder / "data"), "global_batch_size": 60},
        "model": {"name": "two_tower", "embedding_dim": 4, "vector_dim": 6, "mlp": {"hidden": [8]}, "user": list(USER)},
        "trainer": {"epochs": 1, "tensorboard": False},
        "launch": {"threads": 1, "device": "cpu"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(declared))
    return Path(shardrec.train(shardrec.load(folder / "run.yaml"), quiet=True).run_folder)


@pytest.fixture(scope="module")
def model(run: Path) -> shardrec.TrainedModel:
    return shardrec.open(run)


# Of what the user tower reads alone: no product, brand or price, and nothing of what came of the visit.
VISITS: list[dict[str, Any]] = [
    {"customer": "c3", "past": [103, 106, 999, 109, 112], "device": "phone", "age": 20, "hour": 9.5, "visit": "a"},
    {"customer": "nobody yet", "past": [103], "device": "desk", "age": None, "hour": 23.0, "visit": "b"},
    {"customer": "nobody yet", "past": None, "device": "tv", "age": 70, "hour": 9.5, "visit": "c"},
]


def visits() -> pa.Table:
    return pa.Table.from_pylist(VISITS)


def test_lists_and_vectors_are_the_bundles(
    model: shardrec.TrainedModel, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a known user, and of one who was not there at training."""
    shardrec.export(run, tmp_path / "bundle")
    bundle = shardrec.Bundle(tmp_path / "bundle")
    ids, scores = bundle.top_n(VISITS, 5)
    found = model.retrieve(visits(), n=5, raw=True)
    assert found["item"].to_pylist() == [item for row in ids for item in row]
    np.testing.assert_allclose(found["score"].to_numpy(), scores.ravel(), atol=1e-6)
    assert found["customer"].to_pylist() == [row["customer"] for row in VISITS for _ in range(5)]
    vectors = model.vectors(visits(), raw=True)
    np.testing.assert_allclose(np.stack(vectors["vector"].to_numpy()), bundle.user_vectors(VISITS), atol=1e-6)
    assert vectors["customer"].to_pylist() == [row["customer"] for row in VISITS]
    pq.write_table(visits(), tmp_path / "visits.parquet")
    asked = ("--data", tmp_path / "visits.parquet", "--raw", "--quiet")
    command(monkeypatch, "retrieve", run, *asked, "--n", 5, "--out", tmp_path / "lists")
    assert pq.read_table(tmp_path / "lists").equals(found)
    command(monkeypatch, "vectors", run, *asked, "--out", tmp_path / "vectors")
    assert pq.read_table(tmp_path / "vectors/users").equals(vectors)


def test_seen_items_of_raw_rows(model: shardrec.TrainedModel, run: Path, tmp_path: Path) -> None:
    """Those of training, and of files whose integers are ids as people call them; a new user has seen none."""
    known, new = (pa.Table.from_pylist([row]) for row in VISITS[:2])
    folder = run.parent / "data/vocabularies"
    users, items = (pq.read_table(folder / f"{name}.parquet")["value"].to_pylist() for name in ("user", "item"))
    rows = pq.read_table(run.parent / "data/train").to_pylist()
    bought = {items[r["item"] - 1] for r in rows if r["user"] == 1 + users.index("c3") and r["bought"] > 0}
    left = model.retrieve(known, n=12, seen="train", raw=True)["item"].to_pylist()
    assert bought and set(left) == set(ITEMS.tolist()) - bought
    assert len(model.retrieve(new, n=12, seen="train", raw=True)) == len(ITEMS)
    shown = model.retrieve(known, n=2, raw=True)
    pq.write_table(shown, tmp_path / "shown.parquet")
    of_file: dict[str, Any] = {"n": 12, "seen": str(tmp_path / "shown.parquet"), "raw": True}
    for lists in (model.retrieve(known, **of_file), model.retrieve(users=["c3"], **of_file)):
        assert set(lists["item"].to_pylist()) == set(ITEMS.tolist()) - set(shown["item"].to_pylist())


def test_what_raw_rows_lack_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(visits(), tmp_path / "visits.parquet")
    pq.write_table(visits().drop_columns("hour"), tmp_path / "timeless.parquet")
    numbered = visits().set_column(0, "customer", [[1, 2, 3]])
    pq.write_table(numbered, tmp_path / "numbered.parquet")

    def line(*arguments: object) -> str:
        return refused(monkeypatch, "retrieve", run, "--out", tmp_path / "lists", "--quiet", *arguments)

    assert "rows as they were before preparation are read by --raw" in line("--data", tmp_path / "visits.parquet")
    assert "unknown column 'hour'" in line("--data", tmp_path / "timeless.parquet", "--raw")
    assert "expects strings as in the vocabulary" in line("--data", tmp_path / "numbered.parquet", "--raw")
    assert "--raw: is about rows of --data and files of --seen" in line("--users", "c3", "--raw")
    assert not (tmp_path / "lists").exists()
    with shardrec.open(run) as model, pytest.raises(shardrec.UserError, match="preparation are read by raw=True"):
        model.retrieve(visits())
