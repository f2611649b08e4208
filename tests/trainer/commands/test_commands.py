"""The commands after training: evaluate, predict and plan need nothing but the run folder; benchmarks print JSON."""

import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.tower_file import model_tensors
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import build_model
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import tower, whole_tables
from tests.trainer.small_run import run_file, write_data
from tests.trainer.torchrun import torchrun


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was moved, and whose configuration was written in another working directory."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data", rows=1500)
    path = run_file(folder / "run.yaml", Path("data"), run="first", trainer={"tensorboard": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shardrec(patch, "train", path, "--quiet")
    return Path(shutil.move(folder / "first", folder / "moved"))


def scores(folder: Path) -> pa.Table:
    return pq.read_table(folder)


def test_the_run_folder_is_complete(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    expected = {"metrics", "steps", "rows", "samples_per_second", "world_size", "peak_memory_bytes", "wall_seconds"}
    assert expected <= summary.keys()
    assert 0 < summary["seconds_to_first_step"] < summary["wall_seconds"]
    assert summary["peak_memory_bytes"] > 50e6
    assert summary["metrics"].keys() == {"validation", "test"}
    records = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    assert {r["kind"] for r in records} >= {"start", "train", "validation", "end"}
    assert any((trained / "tensorboard").iterdir())
    assert "table_wise" in (trained / "plan.txt").read_text()


def test_evaluate_gives_the_summary_again_and_its_curves(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    shardrec(monkeypatch, "evaluate", trained, "--quiet", "--curves", tmp_path / "curves")
    printed = capsys.readouterr().out
    for metrics in summary["metrics"].values():
        assert f"{metrics['auc']:.4f}" in printed
    assert sorted(os.listdir(tmp_path / "curves")) == [
        *("calibration.csv", "calibration.parquet", "curves.csv", "curves.parquet", "curves.svg")
    ]
    picture = (tmp_path / "curves/curves.svg").read_text()
    points = pq.read_table(tmp_path / "curves/curves.parquet")
    assert points.equals(csv.read_csv(tmp_path / "curves/curves.csv"))
    for split, metrics in summary["metrics"].items():
        assert f"<!-- {split}: AUC {metrics['auc']:.4f} -->" in picture
        of_split = points.filter(pc.equal(points["split"], split)).to_pandas()
        area = np.trapezoid(of_split["true_positive_rate"], of_split["false_positive_rate"])
        assert area == pytest.approx(metrics["auc"], abs=1e-12)
    shardrec(
        monkeypatch, "evaluate", trained, "--quiet", "--data", trained.parent / "data/train", "--step", summary["steps"]
    )
    assert "data" in capsys.readouterr().out


def test_predictions_are_of_every_row_and_make_the_metric(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = trained.parent / "data/test"
    shardrec(monkeypatch, "predict", trained, "--data", test, "--out", tmp_path / "scores", "--quiet")
    rows, found = pq.read_table(test), scores(tmp_path / "scores")
    assert found.column_names == ["row", "user", "item", "prediction"]
    assert found["row"].to_pylist() == list(range(rows.num_rows))
    assert found["user"].equals(rows["user"])
    auc = json.loads((trained / "summary.json").read_text())["metrics"]["test"]["auc"]
    ours = roc_auc_score(rows["label"], found["prediction"], sample_weight=rows["weight"])
    assert ours == pytest.approx(auc, abs=1e-6)


def test_curves_say_what_comes_of_calling_predictions_positive(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = trained.parent / "data/test"
    shardrec(monkeypatch, "predict", trained, "--data", test, "--out", tmp_path / "scores", "--quiet")
    shardrec(monkeypatch, "evaluate", trained, "--data", test, "--curves", tmp_path / "curves", "--quiet")
    rows, predicted = pq.read_table(test), scores(tmp_path / "scores")["prediction"].to_numpy()
    label, weight = rows["label"].to_numpy(), rows["weight"].to_numpy()
    points = pq.read_table(tmp_path / "curves/curves.parquet").to_pylist()
    apart = [point for point, after in pairwise(points) if point["threshold"] / after["threshold"] > 1 + 2e-6]
    assert len(apart) > 0.9 * len(points)
    for point in apart:
        positive = predicted >= point["threshold"]
        assert point["recall"] == pytest.approx((label * weight)[positive].sum() / (label * weight).sum())
        if positive.any():
            assert point["precision"] == pytest.approx(np.average(label[positive], weights=weight[positive]))
    bins = pq.read_table(tmp_path / "curves/calibration.parquet").to_pandas()
    assert np.average(bins["prediction_mean"], weights=bins["weight"]) == pytest.approx(
        np.average(predicted, weights=weight), abs=1e-6
    )
    before = [(path, path.read_bytes()) for path in sorted((tmp_path / "curves").iterdir())]
    line = refused(monkeypatch, "evaluate", trained, "--data", test, "--curves", tmp_path / "curves", "--quiet")
    assert line.endswith("curves: not empty; name another --curves")
    assert [(path, path.read_bytes()) for path in sorted((tmp_path / "curves").iterdir())] == before


def test_predictions_need_no_labels(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pq.read_table(trained.parent / "data/test")
    (tmp_path / "new").mkdir()
    pq.write_table(rows.drop_columns(["label", "weight"]), tmp_path / "new/0.parquet")
    for data, out in ((trained.parent / "data/test", "a"), (tmp_path / "new", "b")):
        shardrec(monkeypatch, "predict", trained, "--data", data, "--out", tmp_path / out, "--keys", "price", "--quiet")
    assert scores(tmp_path / "a").equals(scores(tmp_path / "b"))
    assert scores(tmp_path / "b").column_names == ["row", "price", "prediction"]


def test_columns_that_a_model_never_reads_need_not_be_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MF reads user and item."""
    path = run_file(tmp_path / "run.yaml", trained.parent / "data")
    shardrec(
        monkeypatch,
        "train",
        path,
        "--quiet",
        "--set",
        "model={name: mf, user: user, item: item}",
        "--set",
        "trainer.max_steps=2",
    )
    rows = pq.read_table(trained.parent / "data/test")
    (tmp_path / "narrow").mkdir()
    pq.write_table(rows.select(["user", "item"]), tmp_path / "narrow/0.parquet")
    for data, out in ((trained.parent / "data/test", "a"), (tmp_path / "narrow", "b")):
        shardrec(monkeypatch, "predict", tmp_path / "run", "--data", data, "--out", tmp_path / out, "--quiet")
    assert scores(tmp_path / "a").equals(scores(tmp_path / "b"))


def test_two_workers_score_and_explain_alike(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AFM's attention, as its model gives it for the rows of its checkpoint's tables; rank 0 alone prints."""
    features = ["user", "item", "kind"]
    large = {"*": {"init": {"scale": 2.0}}}  # so that attention differs from pair to pair
    path = run_file(tmp_path / "run.yaml", trained.parent / "data", data={"features": features}, tables=large)
    afm = ("--set", "model={name: afm, embedding_dim: 4}", "--set", "trainer.max_steps=3")
    shardrec(monkeypatch, "train", path, "--quiet", *afm)
    test = trained.parent / "data/test"
    asked = ("predict", tmp_path / "run", "--data", test, "--quiet", "--explain")
    shardrec(monkeypatch, *asked, "--out", tmp_path / "one")
    agent = torchrun(2, tmp_path, *asked, "--out", tmp_path / "two")
    agent.join()
    assert agent.exitcode == 0
    assert [(tmp_path / f"{rank}.log").read_text().count("rows scored") for rank in range(2)] == [1, 0]
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two").sort_by("row")
    assert len(list((tmp_path / "two").iterdir())) == 2 and not list(tmp_path.glob(".two*"))
    assert one.column_names == ["row", "user", "item", "prediction", "weights", "weights_of"]
    assert two["row"].equals(one["row"]) and two["user"].equals(one["user"])
    assert np.allclose(two["prediction"], one["prediction"], atol=1e-6)
    assert two["weights_of"].equals(one["weights_of"])
    weights = np.stack(one["weights"].to_numpy())
    assert np.allclose(np.stack(two["weights"].to_numpy()), weights, atol=1e-6)
    names = ["user_x_item", "user_x_kind", "item_x_kind"]
    assert one["weights_of"].to_pylist() == [names] * one.num_rows
    expected = attention(tmp_path / "run", pq.read_table(test), features)
    assert expected.std(1).min() > 1e-4
    assert np.allclose(weights, expected, atol=1e-5)


def attention(run: Path, rows: pa.Table, features: list[str]) -> np.ndarray:
    """[rows, pairs] of features with one id a row, from the files of a checkpoint."""
    folder = RunFolder.open(run)
    at = folder.checkpoint(folder.choose_step())
    model = build_model(folder.config(), folder.schema())
    model.load_state_dict(model_tensors(tower(at)))
    tables = whole_tables(at)
    with torch.no_grad():
        field = torch.stack([tables[f]["weight"][rows[f].to_pylist()] for f in features], 1)
        return model.crossings(field)[0].numpy()


def test_a_model_that_explains_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["predict", trained, "--data", trained.parent / "data/test", "--out", tmp_path / "out", "--explain"]
    line = refused(monkeypatch, *asked)
    assert re.match(r"shardrec: error: --explain: model deepfm has no .*: afm, din, dien, bst$", line)
    assert not (tmp_path / "out").exists()


def test_plan_prints_and_makes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_file(tmp_path / "run.yaml", trained.parent / "data", tables={"user": {"placement": "row_wise"}})
    shardrec(monkeypatch, "plan", path, "--set", "launch.workers=2")
    printed = capsys.readouterr().out
    assert "row_wise" in printed and "rank 1: bytes" in printed
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_bench_step_ends_with_json(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_file(tmp_path / "run.yaml", trained.parent / "data")
    shardrec(monkeypatch, "bench", "step", path, "--steps", 3)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["model"] == "deepfm" and found["world_size"] == 1
    assert found["step_samples_per_second"] > 0 and found["end_to_end_samples_per_second"] > 0
    assert found["bound_milliseconds"] > found["products_milliseconds"] > 0
    assert found["step_to_bound"] == pytest.approx(found["step_milliseconds"] / found["bound_milliseconds"], rel=0.01)
    assert os.listdir(tmp_path) == ["run.yaml"]
    line = refused(monkeypatch, "bench", "step", path, "--model", "lr")
    assert "--model: is of the made log" in line and "run.yaml says what it has" in line
    assert "--ids: is of the made log" in refused(monkeypatch, "bench", "step", "--data", tmp_path, "--ids", 9)


def test_bench_step_counts_samples(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of which none were counted would grow 99-fold in every step, until the loss is not finite."""
    decay = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 1000, "decay": "frequency"}
    path = run_file(tmp_path / "run.yaml", trained.parent / "data", tables={"kind": {"optimizer": decay}})
    shardrec(monkeypatch, "bench", "step", path, "--steps", 12)


OWN_MODEL = """
from torch import nn
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.inputs import PooledEmbeddings

class Config(PointwiseConfig):
    width: int = 3

class Mine(Recommender):
    def __init__(self, fields, config: Config):
        super().__init__(inputs={"field": PooledEmbeddings(fields.tables(embedding_dim=config.width))},
                         task=config.build_task(fields.schema))
        self.out = nn.Linear(config.width, 1)

    def forward(self, field):
        return self.out(field.sum(1)).squeeze(1)
"""


def test_a_model_of_ones_own(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by import path, found in the run file's folder, also by evaluate afterwards."""
    (tmp_path / "my_towers.py").write_text(OWN_MODEL)
    path = run_file(tmp_path / "run.yaml", trained.parent / "data", trainer={"max_steps": 3})
    shardrec(monkeypatch, "train", path, "--quiet", "--set", "model={name: 'my_towers:Mine', width: 5}")
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--quiet")


def test_int8_rows_score_as_trained_ones_do(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The optimizer's state is damaged in the copy, and not read."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    folder = RunFolder.open(run)
    checkpoint = folder.checkpoint(folder.choose_step())
    for entry in read_manifest(checkpoint)["tables"]:
        with (checkpoint / entry["file"]).open("r+b") as file:
            file.seek(entry["tensors"]["accumulator"]["start"])
            file.write(b"\xff" * 8)
    test = trained.parent / "data/test"
    shardrec(monkeypatch, "predict", trained, "--data", test, "--out", tmp_path / "trained", "--quiet")
    shardrec(monkeypatch, "predict", run, "--data", test, "--out", tmp_path / "int8", "--rows", "int8", "--quiet")
    rows, exact, found = pq.read_table(test), scores(tmp_path / "trained"), scores(tmp_path / "int8")
    assert exact["row"] == found["row"]
    difference = np.abs(found["prediction"].to_numpy() - exact["prediction"].to_numpy())
    assert 0 < difference.max() < 0.01
    before, after = (
        roc_auc_score(rows["label"], scored["prediction"], sample_weight=rows["weight"]) for scored in (exact, found)
    )
    assert after == pytest.approx(before, abs=1e-3)
    capsys.readouterr()
    shardrec(monkeypatch, "evaluate", run, "--rows", "int8", "--quiet")
    printed = capsys.readouterr().out
    assert f"{after:.4f}" in printed
    assert "tables: 5.7 KiB as int8" in printed  # 452 rows of 5 columns and 8 bytes
