"""The table of a comparison equals what the runs' summaries say."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.comparison.scoreboard import Outcome, Scoreboard


def summary(auc: float | None, *, rate: float = 100.0, first_step: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "metrics": {"validation": {"auc": 0.9, "log_loss": 0.1}, "test": {"auc": auc, "log_loss": 0.4, "hr@10": 0.25}},
        "parameters": {"tables": 5000, "tower": 70},
        "samples_per_second": rate,
        "epochs_to_best": 2.0,
        "first_step": first_step,
        "wall_seconds": 10.0,
        **more,
    }


def board(*outcomes: Outcome, models: tuple[str, ...] = ("fm", "lr"), **more: Any) -> Scoreboard:
    result = Scoreboard(models, 3, **more)
    for outcome in outcomes:
        result.add(outcome)
    return result


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path: Path) -> None:
    aucs, rates = [0.71, 0.75, 0.722], [100.0, 300.0, 120.0]
    runs = [Outcome("fm", s, summary(auc, rate=r)) for s, (auc, r) in enumerate(zip(aucs, rates, strict=True))]
    found = board(*runs, Outcome("lr", 0, summary(0.6)))
    found.write(tmp_path)
    fm, lr = rows(tmp_path / "compare.csv")
    assert float(fm["auc"]) == pytest.approx(np.mean(aucs), abs=1e-15)
    assert float(fm["auc_std"]) == pytest.approx(np.std(aucs, ddof=1), abs=1e-15)
    assert (fm["samples_per_second"], fm["table_parameters"], fm["tower_parameters"]) == ("120.0", "5000", "70")
    assert (fm["runs"], lr["runs"], lr["auc"], lr["auc_std"], lr["failed"]) == ("3", "1", "0.6", "", "0")
    text = io.StringIO()
    found.print(Console(file=text, width=40))  # narrower than the table, which stays whole
    assert f"{np.mean(aucs):.4f} ± {np.std(aucs, ddof=1):.4f}" in text.getvalue()
    assert "lr (1 of 3 done)" in text.getvalue()
    header, _, first, second = (tmp_path / "compare.md").read_text().splitlines()
    assert header.startswith("| model | auc | log_loss | hr@10 | samples/s |")
    assert first.startswith(f"| fm | {np.mean(aucs):.4f} ± {np.std(aucs, ddof=1):.4f} |") and "| 0.6000 |" in second
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_every_run_is_a_line_with_every_metric(tmp_path: Path) -> None:
    board(Outcome("lr", 1, failure="no, never"), Outcome("fm", 1, summary(0.7)), Outcome("fm", 0, summary(0.8))).write(
        tmp_path
    )
    first, second, third = rows(tmp_path / "runs.csv")
    assert [(r["model"], r["seed"], r["test/auc"]) for r in (first, second)] == [("fm", "0", "0.8"), ("fm", "1", "0.7")]
    assert (first["validation/log_loss"], first["test/hr@10"]) == ("0.1", "0.25")
    assert (third["model"], third["failure"], third["test/auc"]) == ("lr", "no, never", "")


def test_failures_are_told(tmp_path: Path) -> None:
    found = board(Outcome("fm", 0, summary(0.7)), Outcome("lr", 0, failure="column [x] is gone"))
    found.write(tmp_path)
    text = io.StringIO()
    found.print(Console(file=text, width=200))
    assert "lr (1 of 3 failed)" in text.getvalue()
    assert "failed: lr, seed 0: column [x] is gone" in text.getvalue()
    assert [r["failed"] for r in rows(tmp_path / "compare.csv")] == ["0", "1"]
    assert found.failures[0].seed == 0


def test_only_failures_make_a_table_without_metrics(tmp_path: Path) -> None:
    board(Outcome("fm", 0, failure="no")).write(tmp_path)
    assert (tmp_path / "compare.md").read_text().splitlines()[2] == "| fm (1 of 3 failed) | - | - | - | - | - |"
    assert not (tmp_path / "compare.png").exists()


def test_undefined_metrics_are_left_out_of_the_mean_and_told(tmp_path: Path) -> None:
    why = {"undefined": {"test": {"auc": "the model's scores are NaN"}}}
    found = board(Outcome("fm", 0, summary(0.7)), Outcome("fm", 1, summary(None, **why)))
    assert found.values("fm", "auc") == [0.7]
    assert "auc_std" not in found.row("fm")
    assert found.left_out() == ["test: undefined: auc (the model's scores are NaN) [fm seed 1]"]


def test_a_metric_that_no_run_has_defined_is_a_column_all_the_same(tmp_path: Path) -> None:
    why = {"undefined": {"test": {"auc": "all labels are 0"}}, "not_scored": {"other": "its rows have no labels"}}
    found = board(*(Outcome(model, 0, summary(None, **why)) for model in ("fm", "lr")), leading="auc")
    found.write(tmp_path)
    assert [r["auc"] for r in rows(tmp_path / "compare.csv")] == ["nan", "nan"]
    assert [r["test/auc"] for r in rows(tmp_path / "runs.csv")] == ["nan", "nan"]
    assert (tmp_path / "compare.md").read_text().splitlines()[2].startswith("| fm (1 of 3 done) | undefined | 0.4000 |")
    text = io.StringIO()
    found.print(Console(file=text, width=40))
    for said in (text.getvalue(), (tmp_path / "compare.md").read_text()):
        assert (
            "test: undefined: auc (all labels are 0)\n" in said and "other: not scored: its rows have no labels" in said
        )
    assert (tmp_path / "compare.png").exists()  # of the metrics that there are


def test_without_a_test_split_validation_counts() -> None:
    of_run = summary(0.7) | {"metrics": {"validation": {"auc": 0.9, "log_loss": 0.1}}}
    found = board(Outcome("fm", 0, of_run), leading="log_loss")
    assert (found.split, found.shown, found.values("fm", "auc")) == ("validation", ["log_loss", "auc"], [0.9])


def test_seconds_are_of_runs_that_were_not_interrupted() -> None:
    staged = summary(0.7, stages={"a": summary(0.7, wall_seconds=4.0), "b": summary(0.7, wall_seconds=5.0)})
    assert board(Outcome("fm", 0, staged), Outcome("fm", 1, summary(0.7, first_step=3))).row("fm")["seconds"] == 9.0
    assert "seconds" not in board(Outcome("fm", 0, summary(0.7, first_step=3))).row("fm")


@pytest.mark.parametrize("name", ["compare.csv", "runs.csv", "compare.md", "compare.png"])
def test_files_of_the_users_that_have_its_names_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="nothing in it proves that shardrec wrote it"):
        Scoreboard.check_writable(tmp_path)
    (tmp_path / name).unlink()
    for outcome in (Outcome("fm", 0, failure="no"), Outcome("fm", 0, summary(0.7))):
        board(outcome).write(tmp_path)
        Scoreboard.check_writable(tmp_path)
