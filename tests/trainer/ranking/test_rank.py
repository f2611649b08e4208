"""`shardrec calibrate` and `rank` on a small run: what they keep, say and refuse, and Python's doors to them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.isotonic import IsotonicRegression

import shardrec
from shardrec.trainer.checkpoints.manifest import read_manifest, write_manifest
from shardrec.trainer.run_folder.atomic import check_own_picture
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose schema says that training rows lack negatives, so that predictions are corrected."""
    folder = tmp_path_factory.mktemp("ranking")
    write_data(folder / "data", rows=1200)
    schema = yaml.safe_load((folder / "data/schema.yaml").read_text())
    (folder / "data/schema.yaml").write_text(yaml.safe_dump(schema | {"negative_rate": 0.25}))
    file = run_file(folder / "run.yaml", folder / "data", trainer={"epochs": 1, "checkpoint": {"every_steps": 2}})
    return Path(shardrec.train(shardrec.load(file), quiet=True).run_folder)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to calibrate."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def data_of(trained: Path) -> Path:
    return trained.parent / "data"


def test_a_calibration_is_of_predictions_corrected_for_down_sampling(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = run.parent / "reliability.svg"
    command(monkeypatch, "calibrate", run, "--quiet", "--picture", picture)
    printed = capsys.readouterr().out
    assert "isotonic, fitted on 300 validation rows by step" in printed and "warning: an isotonic map" in printed
    assert "test" in printed and picture.read_text().startswith("<?xml")
    check_own_picture(picture)  # another calibration may replace it
    kept = json.loads((run / "calibration.json").read_text())
    assert (kept["method"], kept["split"], kept["rows"]) == ("isotonic", "validation", 300)
    rows = pq.read_table(data_of(trained) / "validation")
    with shardrec.open(trained) as model:
        prediction = model.predict(rows)["prediction"].to_numpy().astype(np.float64)
    expected = IsotonicRegression().fit(prediction, rows["label"].to_numpy(), rows["weight"].to_numpy())
    found = np.interp(prediction, kept["x"], kept["y"])
    middle = (expected.predict(prediction) > kept["y"][0]) & (expected.predict(prediction) < kept["y"][-1])
    assert middle.sum() > 100
    np.testing.assert_allclose(found[middle], expected.predict(prediction)[middle], atol=1e-6)

    schema = yaml.safe_load((run / "schema.yaml").read_text())
    (run / "schema.yaml").write_text(yaml.safe_dump(schema | {"negative_rate": 1.0}))
    with shardrec.open(run) as model:
        uncorrected = model.predict(rows)["prediction"].to_numpy().astype(np.float64)
    odds = [p / (1 - p) for p in (prediction, uncorrected)]
    np.testing.assert_allclose(odds[0], 0.25 * odds[1], rtol=1e-4)


def test_what_is_measured_was_not_seen_by_the_fit(trained: Path, run: Path) -> None:
    with shardrec.open(run) as model:
        made = model.calibrate("platt")
        assert (run / "calibration.json").exists()
        rows = {name: pq.read_table(data_of(trained) / name) for name in ("validation", "test")}
        scores = {name: model.predict(of)["prediction"].to_numpy().astype(np.float64) for name, of in rows.items()}
        mapped = model.predict(rows["test"], calibrated=True)["prediction"].to_numpy()
    np.testing.assert_allclose(mapped, made(scores["test"]), rtol=1e-6)
    label, weight = (rows["test"][name].to_numpy().astype(np.float64) for name in ("label", "weight"))

    def loss(p: np.ndarray) -> float:
        return float(-(weight * np.log(np.where(label == 1, p, 1 - p))).sum() / weight.sum())

    of_test = made.measured["test"]
    assert of_test.log_loss == pytest.approx((loss(scores["test"]), loss(made(scores["test"]))))
    assert of_test.log_loss[1] < of_test.log_loss[0]  # the training rows lack no negatives, whatever the schema says
    assert (of_test.cross_fitted, made.measured["validation"].cross_fitted) == (0, 5)


def test_ranked_rows(
    trained: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test = data_of(trained) / "test"
    by_bid = ("rank", run, "--data", test, "--group", "user", "--bid", "weight", "--keys", "item", "--quiet")
    command(monkeypatch, *by_bid, "--out", tmp_path / "raw")
    assert "300 of 300 rows in" in (said := capsys.readouterr().out) and "uncalibrated" in said
    command(monkeypatch, "calibrate", run, "--quiet")
    command(monkeypatch, *by_bid, "--reserve", 200, "--out", tmp_path / "calibrated")
    assert "calibrated (isotonic)" in capsys.readouterr().out.splitlines()[-1]
    command(monkeypatch, *by_bid, "--uncalibrated", "--out", tmp_path / "again")
    raw, calibrated = (pq.read_table(tmp_path / name) for name in ("raw", "calibrated"))
    assert raw.equals(pq.read_table(tmp_path / "again"))
    assert raw.column_names == ["user", "item", "row", "rank", "score", "pctr", "bid", "ecpm"]
    assert calibrated.schema.metadata[b"calibration"] == b"isotonic, fitted on validation"
    assert {p.name for p in (tmp_path / "raw").iterdir()} <= {"part-00000.parquet", ".shardrec.json"}
    with shardrec.open(run) as model:
        frame = pq.read_table(test).to_pandas().set_index(np.arange(300) + 1000)
        expected = model.predict(frame, keys=["item"], calibrated=True)["prediction"]
        ranked = model.rank(frame, group="user", bid="weight", reserve=200, keys="item")
    assert ranked.index.tolist() == [row + 1000 for row in calibrated["row"].to_pylist()]
    pd.testing.assert_frame_equal(ranked.reset_index(drop=True), calibrated.to_pandas())
    np.testing.assert_allclose(ranked["pctr"], expected.loc[ranked.index], rtol=1e-6)
    assert (ranked["ecpm"] >= 200).all() and len(ranked) < 300
    for _, group in ranked.groupby("user"):
        assert group["rank"].tolist() == list(range(1, len(group) + 1)) and group["score"].is_monotonic_decreasing


def test_what_cannot_be_calibrated_or_ranked_is_one_line(
    trained: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = data_of(trained), tmp_path / "out"
    rank = ("rank", run, "--data", data / "test", "--out", out, "--quiet")
    assert "has no calibration.json; make it with `shardrec calibrate" in refused(monkeypatch, *rank, "--calibrated")
    assert "'wight'" in refused(monkeypatch, *rank, "--bid", "wight")
    assert "--reserve: a least price needs bids" in refused(monkeypatch, *rank, "--reserve", 1)
    assert "column 'tags' is list" in refused(monkeypatch, *rank, "--group", "tags")
    assert "has a column of that name" in refused(monkeypatch, *rank, "--keys", "row")
    assert "name another --out" in refused(monkeypatch, *rank[:4], "--out", data, "--quiet")
    zeros = pq.read_table(data / "validation").to_pandas().assign(label=np.float32(0))
    pq.write_table(pa.Table.from_pandas(zeros), tmp_path / "zeros.parquet")
    calibrate = ("calibrate", run, "--quiet")
    assert "300 rows whose mean label is 0" in refused(monkeypatch, *calibrate, "--data", tmp_path / "zeros.parquet")
    pq.write_table(pa.Table.from_pandas(zeros).drop_columns("label"), tmp_path / "zeros.parquet")
    line = refused(monkeypatch, *calibrate, "--data", tmp_path / "zeros.parquet")
    assert "without labels there is nothing to fit" in line
    assert "ends in .svg or .png" in refused(monkeypatch, *calibrate, "--picture", tmp_path / "a.gif")
    (tmp_path / "mine.svg").write_text('<?xml version="1.0"?><svg><title>shardrec</title></svg>')
    assert "not replaced" in refused(monkeypatch, *calibrate, "--picture", tmp_path / "mine.svg")
    assert "there is no such folder" in refused(monkeypatch, *calibrate, "--picture", tmp_path / "nowhere/a.png")
    broken = ("--picture", Path("/proc") / "a.svg")  # a folder that takes no file
    assert "/proc" in refused(monkeypatch, *calibrate, *broken)
    with shardrec.open(run) as model, pytest.raises(shardrec.UserError, match="split: found 'train', expected"):
        model.calibrate(split="train")  # type: ignore[arg-type]
    assert not (run / "calibration.json").exists() and not out.exists()

    command(monkeypatch, *calibrate, "--step", 4)
    line = refused(monkeypatch, *rank)
    assert "was fitted to scores of step 4" in line and "or rank without it by --uncalibrated" in line
    predict = ("predict", run, "--data", data / "test", "--out", out, "--quiet", "--calibrated")
    assert "or leave out --calibrated" in refused(monkeypatch, *predict)
    trained_again = run / "checkpoints/step-4"
    write_manifest(trained_again / "manifest.json", read_manifest(trained_again) | {"generators": ["AAAA"]})
    line = refused(monkeypatch, *rank, "--step", 4)
    assert "fitted to scores of another checkpoint of step 4 than the one that is there; calibrate that" in line
    for broken in ("{", '{"method": "isotonic", "x": [1, 0], "y": [0, 1]}', '{"method": "platt", "a": -1}'):
        (run / "calibration.json").write_text(broken)
        assert "cannot be read as a calibration" in refused(monkeypatch, *rank)
    assert not out.exists()


def test_a_model_of_other_labels_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"task": "regression"}
    file = run_file(tmp_path / "run.yaml", data_of(trained), model=model, trainer={"max_steps": 1})
    run = shardrec.train(shardrec.load(file), quiet=True).run_folder
    line = refused(monkeypatch, "calibrate", run, "--quiet")
    assert "model deepfm does not predict probabilities of a label" in line
    assert "rank: model deepfm does not" in refused(
        monkeypatch, "rank", run, "--data", data_of(trained) / "test", "--out", tmp_path / "out", "--quiet"
    )
