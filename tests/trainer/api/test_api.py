"""`import shardrec`: what it gives is what the commands give, and the process that asks for it stays as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import yaml

import shardrec
from shardrec.trainer.scoring.evaluate import evaluate_run
from shardrec.trainer.scoring.predict import predict_rows
from tests import ROOT
from tests.trainer.small_run import run_file, table, write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_data(folder / "data", rows=1200)
    return folder


@pytest.fixture(scope="module")
def summary(root: Path) -> shardrec.Summary:
    path = run_file(root / "run.yaml", root / "data", model={"name": "afm", "mlp": None}, trainer={"epochs": 1})
    content = yaml.safe_load(path.read_text())
    content["model"] = {"name": "afm", "embedding_dim": 4}
    path.write_text(yaml.safe_dump(content))
    before = torch.get_num_threads(), torch.get_rng_state(), sys.stdout, sys.stderr
    found = shardrec.train(path, quiet=True)
    after = torch.get_num_threads(), torch.get_rng_state(), sys.stdout, sys.stderr
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2:] == after[2:]
    assert not dist.is_initialized()
    assert found is not None
    return found


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, shardrec; shardrec.load({'run': 'r', 'data': {'path': '.'}, 'model': 'fm'}); "
        "print([m for m in ('torch', 'torchrec', 'ray', 'pandas') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_every_name_of_the_door_is_there() -> None:
    assert all(getattr(shardrec, name).__doc__ for name in shardrec.__all__)
    assert set(shardrec.__all__) <= set(dir(shardrec))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        shardrec.trian  # type: ignore[attr-defined]


def test_a_summary_is_what_the_run_folder_says(summary: shardrec.Summary) -> None:
    written = json.loads((summary.run_folder / "summary.json").read_text())
    assert written["finished"] is True
    assert summary.metrics == written["metrics"] and summary.steps == written["steps"] == 6
    assert summary.seconds_to_first_step is not None and summary.wall_seconds >= 0


def test_scores_of_rows_in_memory_are_those_of_files(summary: shardrec.Summary, root: Path, tmp_path: Path) -> None:
    rows = table(300, seed=200).drop_columns(["label", "weight"])
    pq.write_table(rows, tmp_path / "rows.parquet")
    with shardrec.open(summary.run_folder) as model:
        of_files = model.predict(tmp_path / "rows.parquet")
        of_table = model.predict(rows)
        frame = rows.to_pandas().set_index(np.arange(1000, 1300))
        of_frame = model.predict(frame, keys=["item"])
    predict_rows(summary.run_folder, (str(tmp_path / "rows.parquet"),), tmp_path / "scores", quiet=True)
    expected = pq.read_table(tmp_path / "scores")
    assert of_files.equals(expected)
    assert isinstance(of_table, pa.Table) and of_table.equals(expected.drop_columns(["row"]))
    assert isinstance(of_frame, pd.DataFrame) and list(of_frame.index) == list(range(1000, 1300))
    assert list(of_frame.columns) == ["item", "prediction"]
    np.testing.assert_array_equal(of_frame["prediction"], expected["prediction"].to_numpy())
    assert not dist.is_initialized()


def test_metrics_and_explanations_are_those_of_the_commands(summary: shardrec.Summary, tmp_path: Path) -> None:
    model = shardrec.open(summary.run_folder)
    by_command = evaluate_run(summary.run_folder, curves=tmp_path / "by command", quiet=True)
    assert model.evaluate() == by_command["metrics"]  # type: ignore[index]
    curves = model.curves()
    assert curves.metrics == by_command["metrics"]  # type: ignore[index]
    curves.write(tmp_path / "curves")
    for path in (tmp_path / "by command").iterdir():
        assert path.read_bytes() == (tmp_path / "curves" / path.name).read_bytes(), path.name
    with pytest.raises(shardrec.UserError, match="not empty; name another folder"):
        curves.write(tmp_path / "curves")
    rows = table(50, seed=3)
    on_rows = model.evaluate(rows)
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert on_rows == model.evaluate([tmp_path / "rows.parquet"]) and list(on_rows) == ["data"]
    explained = model.explain(rows)
    assert explained.column_names == ["user", "item", "prediction", "weights", "weights_of"]
    np.testing.assert_allclose([sum(weights) for weights in explained["weights"].to_pylist()], 1, rtol=1e-5)
    model.close()


def test_a_tables_rows(summary: shardrec.Summary) -> None:
    with shardrec.open(summary.run_folder) as model:
        assert "item" in model.tables
        rows = model.table("item", state=True)
        assert rows["id"].to_pylist() == list(range(97)) and rows.column_names == ["id", "vector", "accumulator"]
        with pytest.raises(shardrec.UserError, match="did you mean 'item'"):
            model.table("itm")


def test_a_plan_prints_and_counts(root: Path, summary: shardrec.Summary) -> None:
    planned = shardrec.plan(root / "run.yaml")
    assert "item" in str(planned) and "memory for tables" in str(planned)
    elsewhere = shardrec.plan(root / "run.yaml", shardrec.Machines(hosts=2, devices=8, device_memory="80GB"))
    assert elsewhere.record()["hosts"] == 2 and len(elsewhere.record()["bytes_per_rank"]) == 16
    with pytest.raises(shardrec.UserError, match="expected `stage` to name"):
        shardrec.plan(root / "run.yaml", stage="second")


def test_wrong_rows_are_one_line(summary: shardrec.Summary) -> None:
    with shardrec.open(summary.run_folder) as model, pytest.raises(shardrec.UserError, match="price"):
        model.predict(table(10, seed=1).drop_columns(["price"]))
    with pytest.raises(shardrec.UserError, match="not a run folder"):
        shardrec.open("nowhere")
    with pytest.raises(shardrec.UserError, match="holds a run already"):
        shardrec.train(summary.run_folder / "config.yaml", quiet=True)


def test_models_open_beside_each_other(summary: shardrec.Summary) -> None:
    """They share a process group, which stays as long as one of them is open, and goes with the last."""
    rows = table(20, seed=4)
    one, other = shardrec.open(summary.run_folder), shardrec.open(summary.run_folder)
    expected = one.predict(rows)
    other.predict(rows)
    one.close()
    assert other.predict(rows).equals(expected)
    del other
    assert not dist.is_initialized()
    assert one.predict(rows).equals(expected)
    one.close()
    assert not dist.is_initialized()


def test_an_open_model_sees_files_as_they_are(summary: shardrec.Summary, tmp_path: Path) -> None:
    with shardrec.open(summary.run_folder) as model:
        for part in range(3):
            pq.write_table(table(30, seed=part), tmp_path / f"{part}.parquet")
            assert model.predict(tmp_path).num_rows == 30 * (part + 1)


def test_the_callers_generator_is_left_alone(summary: shardrec.Summary, root: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    shardrec.plan(root / "run.yaml")
    with shardrec.open(summary.run_folder) as model:
        assert model.tables
        model.predict(table(5, seed=1))
        model.table("item")
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_in_memory_of_any_form(summary: shardrec.Summary) -> None:
    frame = table(20, seed=6).to_pandas()
    with shardrec.open(summary.run_folder) as model:
        expected = model.predict(frame)
        mixed = frame.assign(note=[1, "two"] * 10)  # what nobody reads need not be a column of Arrow's
        pd.testing.assert_frame_equal(model.predict(mixed), expected)
        batches = pa.Table.from_pandas(frame).to_batches()
        np.testing.assert_array_equal(model.predict(batches[0])["prediction"], expected["prediction"])
        empty = model.predict(frame[:0], keys="item")
        assert list(empty.columns) == ["item", "prediction"] and len(empty) == 0
        for wrong, message in (
            ([{"user": 1}], "found a list, expected files"),
            ({"user": [1]}, "found a dict"),
            ([], "found no files"),
            (frame.rename(columns={"price": "prize"}), "the rows given: unknown column 'price'; did you mean 'prize'"),
            (frame.assign(item=-1), "the rows given"),
        ):
            with pytest.raises(shardrec.UserError, match=message):
                model.predict(wrong)
        with pytest.raises(shardrec.UserError, match="found no files"):
            model.evaluate([])


def test_classes_that_nothing_can_import() -> None:
    class Local(shardrec.Recommender):
        pass

    with pytest.raises(shardrec.UserError, match="define it at the top of a module"):
        shardrec.load({"run": "r", "data": {}, "model": Local})
    config = shardrec.load({"run": "r", "data": {}, "model": "__main__:Own", "launch": {"workers": 2}})
    with pytest.raises(shardrec.UserError, match=r"put it into a module, or set launch\.workers to 1"):
        shardrec.train(config)
