"""`shardrec contrast` says of a comparison's runs what their own metrics say, and refuses what it cannot contrast."""

import csv
import json
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.comparison.contrast import contrast_models, print_contrast
from shardrec.trainer.config.load import load
from shardrec.trainer.training.train_run import train_run
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs where a comparison leaves them: in MODEL/seed-K."""
    folder = tmp_path_factory.mktemp("contrast")
    data = write_data(folder / "data", rows=600)
    schema = Schema.load(data / "schema.yaml")
    schema.model_copy(update={"group": "kind"}).save(data / "schema.yaml")
    path = run_file(folder / "run.yaml", data, trainer={"epochs": 1})
    for model, seed in product(("lr", "fm"), range(2)):
        config = load(path, [f"trainer.seed={seed}"], variant=model)
        train_run(config.model_copy(update={"run": f"{config.run}/seed-{seed}"}), quiet=True)
    return folder / "run"


def test_differences_are_those_of_the_runs_own_metrics(comparison: Path) -> None:
    found = contrast_models(comparison, ["lr", "fm"], by="tags", draws=5)
    metrics = {
        model: [json.loads(file.read_text())["metrics"]["test"] for file in comparison.glob(f"{model}/*/summary.json")]
        for model in ("lr", "fm")
    }
    assert [row["rows_of"] for row in found] == ["all", "tags of 0", "tags of 1", "tags of 2", "tags of 3 to 5"]
    assert sum(row["rows"] for row in found[1:]) == found[0]["rows"] == 150
    for name in ("auc", "gauc"):
        means = [sum(m[name] for m in metrics[model]) / 2 for model in ("lr", "fm")]
        assert found[0][name].difference == pytest.approx(means[1] - means[0], abs=1e-6)
    (comparison / "lr" / "seed-of-doubt").mkdir()  # none of its runs
    assert contrast_models(comparison, ["lr", "fm"], by="tags", draws=5) == found
    written = list(csv.DictReader((comparison / "contrast.csv").read_text().splitlines()))
    assert [float(row["auc_low"]) for row in written] == [row["auc"].low for row in found]


@pytest.mark.parametrize(
    ("models", "by", "line"),
    [
        (["lr"], None, "two models or more, found ['lr']"),
        (["lr", "fmm"], None, "unknown model 'fmm'"),
        (["lr", "fm"], "price", "--by price: expected a column of lists, found float"),
        (["lr", "fm"], "tagz", "tagz"),
    ],
)
def test_what_cannot_be_contrasted_is_one_line(comparison: Path, models: list[str], by: str | None, line: str) -> None:
    with pytest.raises(UserError) as raised:
        contrast_models(comparison, models, by=by, draws=2)
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_rows_without_labels_are_one_line_before_any_is_scored(comparison: Path, tmp_path: Path) -> None:
    rows = pq.read_table(comparison.parent / "data/test")
    pq.write_table(rows.drop_columns(["label"]), tmp_path / "rows.parquet")
    said: list[str] = []
    with pytest.raises(
        UserError, match="data: without labels nothing can be compared: there is no column 'label'; name"
    ):
        contrast_models(comparison, [], data=(str(tmp_path / "rows.parquet"),), progress=said.append)
    assert not said


def test_rows_without_a_weight_are_one_line(comparison: Path, tmp_path: Path) -> None:
    rows = pq.read_table(comparison.parent / "data/test")
    weights = pa.array([None, *rows["weight"].to_pylist()[1:]], rows["weight"].type)
    rows = rows.set_column(rows.column_names.index("weight"), "weight", weights)
    pq.write_table(rows, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="column 'weight': found 1 null"):
        contrast_models(comparison, ["lr", "fm"], data=(str(tmp_path / "rows.parquet"),), draws=2)


def test_what_rows_of_one_class_do_not_define_is_told(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pq.read_table(comparison.parent / "data/test")
    pq.write_table(rows.filter(pc.equal(rows["label"], 1)), tmp_path / "rows.parquet")
    found = contrast_models(comparison, ["lr", "fm"], data=(str(tmp_path / "rows.parquet"),), draws=2)
    print_contrast(found)
    _, header, line, reason = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["auc", "gauc"] and line.split()[-2:] == ["undefined", "undefined"]
    assert reason == "undefined: auc of rows of one class, gauc of groups of one class each"
    (written,) = csv.DictReader((comparison / "contrast.csv").read_text().splitlines())
    assert (written["auc"], written["gauc_low"]) == ("nan", "nan")


def test_a_folder_without_a_comparison_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs of a comparison in it"):
        contrast_models(tmp_path / "none", [])
