"""Runs that learn to retrieve: one process as two, resumed bit for bit, and what is wrong with a run file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.prepare.importers.pairs import PairForm, prepare_pairs
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.inspection import inspect_run
from tests.trainer.recorded import assert_same_checkpoint, train, train_in_processes, whole_tables

USERS, ITEMS, BATCH = 40, 60, 50
SCHEMA = Schema(
    features=(
        IdFeature(name="user", role="user", ids=Identity(num_ids=USERS)),
        IdFeature(name="item", role="item", ids=Identity(num_ids=ITEMS)),
        IdListFeature(name="brands", role="item", ids=Identity(num_ids=6)),
        SequenceFeature(name="liked", role="user", table="item", ids=Identity(num_ids=ITEMS), max_length=10),
    ),
    labels=(),
)
RUNS: dict[str, dict[str, Any]] = {
    "mf": {"model": {"loss": {"name": "ccl", "margin": 0.2, "negative_weight": 5}}, "negatives": {"shared": 15}},
    "two_tower": {
        "model": {
            "embedding_dim": 4,
            "vector_dim": 4,
            "mlp": {"hidden": [6], "activation": "tanh", "batch_norm": True},
        },
        "features": ["user", "item", "brands"],
        "negatives": {"shared": 7, "in_batch": True, "distribution": "popularity"},
    },
    "simplex": {
        "model": {"loss": {"name": "softmax", "temperature": 0.3, "cosine": True}},
        "negatives": {"in_batch": True},
    },
    "youtube_dnn": {"model": {"mlp": {"hidden": [6], "activation": "tanh"}, "loss": {"name": "bpr"}}, "negatives": {}},
    "sasrec": {"model": {"dropout": 0.0}, "negatives": {"shared": 1000}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users like the items of their own brand: seven of ten in training, of which their histories are made."""
    folder = tmp_path_factory.mktemp("retrieval") / "data"
    draw = np.random.default_rng(0)
    liked = [draw.permutation(np.arange(user % 6, ITEMS, 6)) for user in range(USERS)]
    for split, places in (("train", range(7)), ("validation", range(7, 10))):
        rows = [(u, liked[u][n]) for u in range(USERS) for n in places]
        user, item = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        histories = pa.array([liked[u][:7].tolist() for u in user], pa.list_(pa.int64()))
        brands = pa.array([[i % 6, (i + 1) % 6][: 1 + i % 2] for i in item], pa.list_(pa.int64()))
        (folder / split).mkdir(parents=True)
        columns = {"user": user, "item": item, "liked": histories, "brands": brands}
        pq.write_table(pa.table(columns), folder / split / "0.parquet", row_group_size=64)
    SCHEMA.save(folder / "schema.yaml")
    return folder


def run_file(folder: Path, data: Path, name: str) -> Path:
    wanted = RUNS[name]
    size = {"global_batch_size": 75} if name == "youtube_dnn" else {"global_batch_size": BATCH}
    of_data = {"path": str(data), "negatives": wanted["negatives"], "prefetch": 1, **size}
    if "features" in wanted or name == "mf":
        of_data["features"] = wanted.get("features", ["user", "item"])
    content: dict[str, Any] = {
        "run": str(folder / name),
        "data": of_data,
        "model": {"name": name, "task": "retrieval", "embedding_dim": 4, **wanted["model"]},
        "tables": {
            "*": {"init": {"kind": "normal", "scale": 0.5}},
            "item": {"placement": "row_wise"},
            **({"user": {"placement": "data_parallel"}} if name != "sasrec" else {}),
        },
        "optimizer": {
            "tables": {"name": "sgd", "learning_rate": 1.0},
            "tower": {"name": "sgd", "learning_rate": 0.1},
        },
        "trainer": {"epochs": 3, "matmul_precision": "highest", "tensorboard": False},
        "launch": {"threads": 1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    (folder / "alone").mkdir()
    return {name: train(run_file(folder / "alone", data, name)) for name in RUNS}


@pytest.fixture(scope="module")
def together(data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Two processes train each run, one run file for all."""
    (folder / "two").mkdir()
    paths = [yaml.safe_load(run_file(folder / "two", data, name).read_text()) for name in RUNS]
    first = folder / "two" / "first.yaml"
    first.write_text(yaml.safe_dump(paths[0]))
    overrides = [
        tuple(f"{key}={json.dumps(content[key])}" for key in ("run", "data", "model", "tables")) for content in paths
    ]
    return dict(zip(RUNS, train_in_processes(2, first, *overrides), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(
    name: str, alone: dict[str, dict[str, Any]], together: dict[str, dict[str, Any]], folder: Path
) -> None:
    one, two = alone[name], together[name]
    assert two["batches"] == one["batches"] and two["world_size"] == 2
    assert max(one["losses"]) - min(one["losses"]) > 0.01
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    tables = [whole_tables(folder / where / name / f"checkpoints/step-{one['steps']}") for where in ("alone", "two")]
    for table, tensors in tables[0].items():
        assert (tables[1][table]["weight"] - tensors["weight"]).abs().max().item() < 1e-5, table
    loss = one["metrics"]["validation"].get("loss")
    if name != "youtube_dnn":  # whose rows have negatives of their own, in training alone
        assert loss == pytest.approx(two["metrics"]["validation"]["loss"], abs=1e-5) and np.isfinite(loss)


def test_a_run_learns_and_resumes_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole, halves = (run_file(tmp_path, data, name) for name in ("two_tower", "mf"))
    content = yaml.safe_load(whole.read_text()) | {"run": str(tmp_path / "halves")}
    halves.write_text(yaml.safe_dump(content))
    expected = train(whole, ("trainer.epochs=12",))
    validation = [r["loss"] for r in RunFolder.open(tmp_path / "two_tower").records() if r["kind"] == "validation"]
    assert validation[-1] < 0.8 * validation[0]
    train(halves, ("trainer.epochs=12", "trainer.max_steps=40", "trainer.checkpoint.every_steps=40"))
    found = train(halves, ("trainer.epochs=12", "trainer.checkpoint.every_steps=40"), resume=True)
    assert found["losses"] == expected["losses"][40:] and found["batches"] == expected["batches"][40:]
    last = f"checkpoints/step-{expected['steps']}"
    assert_same_checkpoint(tmp_path / "two_tower" / last, tmp_path / "halves" / last)
    with pytest.raises(UserError, match=r"data\.negatives is .*'shared': 8.* 'shared': 7"):
        train(halves, ("trainer.epochs=13", "data.negatives.shared=8"), resume=True)


def test_ordered_histories_teach_what_comes_next(tmp_path: Path) -> None:
    """Each item follows the one before it: histories that end before a row tell it, and those of a set would not."""
    lines = [[f"i{(start + n) % 20}" for n in range(8)] for start in range(20)] * 3
    for name, part in (("train.txt", slice(0, 7)), ("valid.txt", slice(7, 8))):
        text = "".join(f"u{user} {' '.join(items[part])}\n" for user, items in enumerate(lines))
        (tmp_path / name).write_text(text)
    inputs = Inputs([tmp_path / "train.txt"], [tmp_path / "valid.txt"], divided=False)
    prepare_pairs(inputs, PairForm(), Output(tmp_path / "data"), max_length=5, ordered=True)
    path = run_file(tmp_path, tmp_path / "data", "sasrec")
    learning = ("optimizer.tables={name: adam, learning_rate: 0.1}", "optimizer.tower={name: adam}")
    lists = ("trainer.evaluation.catalogue={top_k: [1], exclude: []}", "trainer.epochs=6", "model.embedding_dim=8")
    found = train(path, (*learning, *lists))["metrics"]["validation"]
    assert found["recall@1"] > 0.9 > 0.2 > found["popular_recall@1"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("data.negatives=null",), r"task: retrieval .* nothing to tell .*; set data\.negatives, say {shared: 1000}"),
        (("model={name: mf}", "data.schema=SCHEMA"), r"data\.negatives: shared and in_batch are for task: retrieval"),
        (("model={name: deepfm, task: retrieval}",), "task: retrieval needs a model whose users and items share"),
        (
            ("trainer.best_metric=recall@20",),
            r"'recall@20' is not measured; .* trainer.evaluation.catalogue: {top_k: \[20\]}",
        ),
        (
            ("trainer.best_metric=ndcg@20", "trainer.evaluation.catalogue.top_k=[5]"),
            r"'ndcg@20' is not measured; .* {top_k: \[5, 20\]}",
        ),
        (("trainer.best_metric=aucc",), "unknown metric to select by 'aucc'"),
        (("model.loss={name: cll}",), "found 'cll'|expected 'softmax', 'bpr' or 'ccl'|'softmax', 'bpr' or 'ccl'"),
    ],
)
def test_what_is_wrong_with_a_run_file(overrides: tuple[str, ...], problem: str, data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path, data, "mf")
    labelled = SCHEMA.model_copy(update={"labels": (Label(name="label"),)})
    labelled.save(tmp_path / "schema.yaml")
    with pytest.raises(UserError, match=problem) as raised:
        inspect_run(load(path, tuple(o.replace("SCHEMA", f"{tmp_path}/schema.yaml") for o in overrides)))
    assert "\n" not in str(raised.value)
