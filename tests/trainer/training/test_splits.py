"""Splits that cannot be scored, for want of labels or for a bad row, cost a run nothing that was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec as python
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.predict import scored_batches
from shardrec.trainer.session.agreed_batches import ASK_STEPS
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from tests.processes import ProcessError, run_processes
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import records, train, train_in_processes
from tests.trainer.small_run import run_file, write_data

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("splits") / "data", rows=960)


def changed(data: Path, folder: Path, **splits: Change) -> Path:
    """A copy of the data with other rows in some splits."""
    copied = Path(shutil.copytree(data, folder / "data"))
    for split, change in splits.items():
        pq.write_table(change(pq.read_table(copied / split / "0.parquet")), copied / split / "0.parquet")
    return copied


def unlabelled(rows: pa.Table) -> pa.Table:
    return rows.set_column(rows.column_names.index("label"), "label", pa.nulls(rows.num_rows, pa.float32()))


def without_the_column(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(["label"])


def bad_row(rows: pa.Table) -> pa.Table:
    """The last user is none, so that of two ranks the second meets it."""
    users = rows["user"].to_pylist()
    return rows.set_column(0, "user", pa.array([*users[:-1], 999], pa.int64()))


@pytest.mark.parametrize("change", [unlabelled, without_the_column])
def test_a_split_without_labels_is_left_out_with_a_line(
    change: Change, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `prepare --test` leaves rows to be scored; selection goes by validation, and `evaluate` has what train had."""
    copied = changed(data, tmp_path, test=change)
    path = run_file(tmp_path / "run.yaml", copied, trainer={"early_stopping": {"metric": "auc"}})
    shardrec(monkeypatch, "train", path, "--quiet", "--set", "trainer.evaluation.test=true")
    summary = RunFolder(tmp_path / "run").summary()
    assert summary is not None and list(summary["metrics"]) == ["validation"] and "test" in summary["data"]
    why = "its rows have no labels: " + {
        unlabelled: "column 'label' is null in all 240 rows", without_the_column: "there is no column 'label'"
    }[change]  # fmt: skip
    assert summary["not_scored"] == {"test": why} and f"test: not scored: {why}\n" in capsys.readouterr().out
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--quiet")
    assert f"test: not scored: {why}\n" in capsys.readouterr().out
    with python.open(tmp_path / "run") as model:
        assert model.evaluate() == {"validation": pytest.approx(summary["metrics"]["validation"])}
    line = refused(monkeypatch, "evaluate", tmp_path / "run", "--data", copied / "test", "--quiet")
    assert "data: without labels there is nothing to measure" in line and "score rows with `shardrec predict`" in line
    shardrec(monkeypatch, "predict", tmp_path / "run", "--data", copied / "test", "--out", tmp_path / "s", "--quiet")


def test_validation_without_labels_selects_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.yaml", changed(data, tmp_path, validation=unlabelled))
    stopping = ("--set", "trainer.early_stopping={metric: auc}")
    line = refused(monkeypatch, "train", path, "--quiet", *stopping)
    assert "'auc' decides what is best, but the validation rows have no labels: column 'label' is null" in line
    assert not (tmp_path / "run").exists()
    shardrec(monkeypatch, "train", path, "--quiet")
    summary = RunFolder(tmp_path / "run").summary()
    assert summary is not None and list(summary["metrics"]) == ["test"] and "validation" in summary["not_scored"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rows_of_all_splits_are_looked_through_before_the_first_step(
    split: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_file(tmp_path / "run.yaml", changed(data, tmp_path, **{split: bad_row}))
    line = refused(monkeypatch, "train", path, "--quiet")
    assert f"{split}/0.parquet, row" in line and "column 'user': found 999, expected an id in [0, 301)" in line
    assert not (tmp_path / "run").exists()


def test_a_bad_row_that_was_not_looked_for_costs_nothing(data: Path, tmp_path: Path) -> None:
    """One of the test split is told in the summary; one of validation ends the run, once the epoch is saved."""
    tests = run_file(tmp_path / "tests.yaml", changed(data, tmp_path / "a", test=bad_row))
    result = train(tests, ("trainer.evaluation.test=true",))
    assert list(result["metrics"]) == ["validation"] and result["best_step"]
    assert "row 239, column 'user': found 999" in result["not_scored"]["test"]
    kept = run_file(tmp_path / "kept.yaml", changed(data, tmp_path / "b", validation=bad_row))
    with pytest.raises(
        UserError, match=r"row 239, column 'user': found 999.*; what was trained so far is saved as step-5"
    ):
        train(kept)
    assert RunFolder(tmp_path / "kept").steps() == [5]
    with pytest.raises(UserError, match="saved as step-5"):  # the evaluation that is owed comes first
        train(kept, resume=True)
    shutil.copy(data / "validation/0.parquet", tmp_path / "b/data/validation/0.parquet")
    result = train(kept, resume=True)
    assert (result["first_step"], result["steps"]) == (5, 10) and result["metrics"]["validation"]["auc"]
    undisturbed = run_file(tmp_path / "undisturbed.yaml", tmp_path / "b/data")
    train(undisturbed)
    assert records(RunFolder(tmp_path / "kept")) == records(RunFolder(tmp_path / "undisturbed"))


def test_ranks_meet_a_bad_row_of_one_of_them_together(data: Path, tmp_path: Path) -> None:
    """A run whose test rows are bad is over; one whose validation rows are is told the row, once its epoch is saved."""
    path = run_file(tmp_path / "run.yaml", changed(data, tmp_path, test=bad_row, validation=bad_row))
    with pytest.raises(ProcessError, match=r"row 239, column 'user': found 999.*saved as step-5"):
        train_in_processes(2, path, (f"data.validation={data}/validation",), (f"run={tmp_path}/second",))
    *_, end = RunFolder(tmp_path / "run").records()
    assert end["kind"] == "end" and end["validation/rows"] == 240 and "test/rows" not in end
    assert RunFolder(tmp_path / "second").steps() == [5]


def test_a_split_that_cannot_be_scored_costs_evaluate_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows, or its files: the other split's metrics are printed, then the error, with status 1."""
    copied = changed(data, tmp_path)
    path = run_file(tmp_path / "run.yaml", copied, trainer={"epochs": 1})
    shardrec(monkeypatch, "train", path, "--quiet")
    kept = pq.read_table(copied / "test/0.parquet")
    pq.write_table(bad_row(kept), copied / "test/0.parquet")
    line = refused(monkeypatch, "evaluate", tmp_path / "run", "--quiet")
    assert "error: test: " in line and "row 239, column 'user': found 999" in line
    out = capsys.readouterr().out
    assert " validation " in out and "test: not scored: " in out
    with python.open(tmp_path / "run") as model, pytest.raises(UserError, match="row 239"):
        model.evaluate()
    pq.write_table(kept, copied / "test/0.parquet")
    (copied / "validation/0.parquet").unlink()
    assert "error: validation: " in refused(monkeypatch, "evaluate", tmp_path / "run", "--quiet")
    assert " test " in capsys.readouterr().out
    line = refused(monkeypatch, "evaluate", tmp_path / "run", "--data", copied / "validation", "--quiet")
    assert "no such Parquet file" in line and " test " not in capsys.readouterr().out


def _predicted(rank: int, run: Path, data: Path) -> tuple[int, str]:
    """Predicts as one rank of two; returns how many batches it scored, and what it raised."""
    folder, environment = RunFolder.open(run), Environment.from_variables("cpu")
    environment.join(60)
    session = Session.build(Blueprint(folder.config(("data.evaluation_batch_size=2",)), folder.schema()), environment)
    scored: list[int] = []
    with pytest.raises(UserError) as raised:
        list(scored_batches(session, session.loader(str(data), labelled=False), on_batch=scored.append))
    return len(scored), str(raised.value)


def test_ranks_that_predict_stop_soon_after_a_bad_row_of_one_of_them(data: Path, tmp_path: Path) -> None:
    """The first row of the second rank: both leave their loops at the same step, long before the last."""
    train(run_file(tmp_path / "run.yaml", data, trainer={"epochs": 1}))
    rows = pq.read_table(data / "validation/0.parquet")
    users = rows["user"].to_pylist()
    users[120] = 999
    pq.write_table(rows.set_column(0, "user", pa.array(users, pa.int64())), tmp_path / "bad.parquet")
    first, second = run_processes(2, _predicted, tmp_path / "run", tmp_path / "bad.parquet")
    assert first == second == (ASK_STEPS, first[1])
    assert "row 120, column 'user': found 999" in first[1]


def test_class_weights_of_labels_that_never_occur(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.yaml", data)
    line = refused(monkeypatch, "train", path, "--set", "data.class_weights={1: 2, 2: 5}", "--quiet")
    assert "data.class_weights: no training row has label 2 (found 0, 1); name labels that there are" in line
    assert not (tmp_path / "run").exists()


def test_the_documented_way_of_prepare_and_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows to be scored, given as `--test`, also to every model of a comparison."""
    features = [{"kind": "id", "name": name, "ids": {"kind": "vocabulary"}} for name in ("user", "title")]
    recipe = {"features": features, "labels": [{"name": "click"}], "split": {"by": "hash"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    clicks = "".join(f"u{k % 3},t{k % 4},{k % 2}\n" for k in range(40))
    (tmp_path / "train.csv").write_text("user,title,click\n" + clicks)
    (tmp_path / "test.csv").write_text("user,title\nu1,t1\nu2,t2\n")
    monkeypatch.chdir(tmp_path)
    prepare = ("prepare", "delimited", "train.csv", "data", "--recipe", "r.yaml", "--fractions", "0.5,0.5,0")
    shardrec(monkeypatch, *prepare, "--test", "test.csv")
    run = {"run": "out/run", "data": {"path": "data", "global_batch_size": 4}, "model": "lr",
           "trainer": {"tensorboard": False}, "launch": {"threads": 1}}  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(run))
    shardrec(monkeypatch, "train", "run.yaml", "--quiet", "--set", "run=compared/lr/seed-0")
    summary = json.loads(Path("compared/lr/seed-0/summary.json").read_text())
    assert summary["metrics"]["validation"]["rows"] > 0
    shardrec(monkeypatch, "compare", "run.yaml", "--models", "lr", "--seeds", "1", "--quiet", "--out", "compared")
    assert "test: not scored: its rows have no labels" in Path("compared/compare.md").read_text()
