"""Slices against plain loops: which rows are in which, and what is measured of them."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

import shardrec as package
from shardrec.trainer.reports.after_training import report_or_warn
from shardrec.trainer.reports.slice_scores import Scored, auc_deviation, measured
from shardrec.trainer.reports.slices import (
    MOST_VALUES,
    RANGES,
    Slice,
    by_length,
    by_range,
    by_value,
    names_of_buckets,
    names_of_values,
)
from tests.trainer.command_line import shardrec
from tests.trainer.reports.test_parts import Texts
from tests.trainer.reports.trained import SCRIPT


def covered(slices: list[Slice], rows: int) -> None:
    """Each row is in one slice."""
    assert np.array_equal(sum(part.rows.astype(int) for part in slices), np.ones(rows, int))


def test_values_are_the_commonest_all_others_and_none() -> None:
    values = [f"v{n}" for n in range(20) for _ in range(20 - n)] + [None, None]
    found = list(by_value(pa.chunked_array([values[:7], values[7:]])))
    covered(found, len(values))
    assert [part.name for part in found] == [*(f"v{n}" for n in range(MOST_VALUES)), "8 other values", "missing"]
    assert [int(part.rows.sum()) for part in found] == [*range(20, 8, -1), sum(range(1, 9)), 2]
    assert found[3].rows.tolist() == [value == "v3" for value in values]


def test_ids_of_a_vocabulary_are_called_by_their_values() -> None:
    column = pa.chunked_array([[1, 1, 1, 2, 2, 0, 3]])
    names = names_of_values(["red", "<b>"])
    assert [part.name for part in by_value(column, names)] == ["red", "<b>", "unknown", "missing"]


def test_ids_of_buckets_are_called_by_their_ranges() -> None:
    column = pa.chunked_array([[1, 1, 1, 1, 0, 0, 0, 2, 2, 3]])
    names = [part.name for part in by_value(column, names_of_buckets((18.0, 30.5)))]
    assert names == ["18 to below 30.5", "below 18", "from 30.5", "missing"]


@pytest.mark.parametrize("kind", ["normal", "few values", "one value", "with NaN", "only NaN"])
def test_ranges_hold_about_equally_many_rows(kind: str) -> None:
    draw = np.random.default_rng(0)
    values = {
        "normal": draw.normal(size=800),
        "few values": draw.integers(0, 3, 800).astype(float),
        "one value": np.ones(800),
        "with NaN": np.where(np.arange(800) % 5, draw.normal(size=800), math.nan),
        "only NaN": np.full(800, math.nan),
    }[kind]
    found = list(by_range(values))
    covered(found, 800)
    assert len(found) <= RANGES + 1 and len({part.name for part in found}) == len(found)
    if kind == "normal":
        assert all(95 <= part.rows.sum() <= 105 for part in found)


def test_lengths_of_lists() -> None:
    lists = [[], None, [1], [1, 2], [1] * 5, [1] * 100]
    found = list(by_length(pa.chunked_array([pa.array(lists, pa.list_(pa.int64()))])))
    covered(found, len(lists))
    assert [(part.name, int(part.rows.sum())) for part in found] == [
        ("length 0", 2), ("length 1", 1), ("length 2", 1), ("length 3 to 5", 1), ("length 51 to 100", 1),
    ]  # fmt: skip


def test_what_is_measured_of_a_slice() -> None:
    draw = np.random.default_rng(1)
    score, weight = draw.random(300), draw.choice([0.5, 1.0, 3.0], 300)
    label = (draw.random(300) < score).astype(float)
    rows = draw.random(300) < 0.5
    found = measured(Scored(score, label, weight, pa.table({}), "test", 1), rows, binary=True)
    assert found["auc"] == pytest.approx(roc_auc_score(label[rows], score[rows], sample_weight=weight[rows]), abs=1e-6)
    assert found["calibration"] == pytest.approx((weight * score)[rows].sum() / (weight * label)[rows].sum())
    assert math.isnan(measured(Scored(score, np.ones(300), weight, pa.table({}), "test", 1), rows, binary=True)["auc"])
    errors = measured(Scored(score, label, weight, pa.table({}), "test", 1), rows, binary=False)
    assert errors["rmse"] == pytest.approx(np.sqrt(np.average((score - label)[rows] ** 2, weights=weight[rows])))


def test_an_aucs_deviation_is_what_draws_show() -> None:
    draw = np.random.default_rng(2)
    found = []
    for _ in range(400):
        positives, negatives = draw.exponential(2.0, 40), draw.exponential(1.0, 60)  # as the formula has them
        found.append((positives[:, None] > negatives).mean())
    assert auc_deviation(2 / 3, 40, 60) == pytest.approx(np.std(found), rel=0.15)


def test_a_page_has_a_table_for_each_feature(finished: Path, tmp_path: Path) -> None:
    page = package.report(finished, tmp_path / "sliced.html", slices=[SCRIPT, "price", "tags"])
    read = Texts(page.read_text())
    assert f"By {SCRIPT}" in read.text and "script" not in read.tags
    assert "By price" in read.text and " to below " in read.text and "length 3" in read.text
    auc = package.open(finished).evaluate()["test"]["auc"]
    assert f"{auc:.4f} ±" in read.text, "all rows are scored as the evaluation does"


def test_a_choice_of_slices_lasts_and_says_of_which_step_it_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))

    def page() -> str:
        return Texts((run / "report.html").read_text()).text

    shardrec(monkeypatch, "report", run, "--slices", "price,user", "--quiet")
    report_or_warn(run)  # as training does
    best = json.loads((run / "summary.json").read_text())["best_step"]
    assert f"rows under step {best}" in page() and "By price" in page() and "By user" in page()
    kept = json.loads((run / "slices.json").read_text())
    (run / "slices.json").write_text(json.dumps(kept | {"step": best + 1}))
    report_or_warn(run)
    assert f"rows under step {best + 1}. The run has another best step now" in page()
    shardrec(monkeypatch, "report", run)
    assert "another best step" not in page() and json.loads((run / "slices.json").read_text()) == kept
    for broken in ('{"step": 1, "split": "test", "features": {"<b>": [{"name": 3}]}}', "[]", "{"):
        (run / "slices.json").write_text(broken)
        report_or_warn(run)
        assert "Slices" not in page()
    package.report(run, slices=[])
    assert not (run / "slices.json").exists()
