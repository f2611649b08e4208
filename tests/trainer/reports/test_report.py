"""Pages of run folders: of finished, broken-off and foreign ones; names are text; nothing of a user's is replaced."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardrec as package
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.reports.after_training import report_comparison, report_or_warn
from shardrec.trainer.reports.learning_curves import metrics_over_time
from shardrec.trainer.reports.page import SIGN
from shardrec.trainer.reports.plan_section import plan_section
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.reports.side_by_side import best_of
from shardrec.trainer.reports.speed_and_memory import memory_over_time
from shardrec.trainer.run_folder.folder import RunFolder
from tests.damaged_json import damaged
from tests.trainer.command_line import refused, shardrec
from tests.trainer.reports.test_parts import Texts
from tests.trainer.reports.trained import SCRIPT
from tests.trainer.small_run import run_file

LARGEST = 1_000_000


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "<i>run"))


def read(path: Path) -> Texts:
    """Returns what is on a page, which loads nothing, runs nothing and is not large."""
    text = path.read_text()
    assert text.startswith(SIGN) and len(text.encode()) < LARGEST
    page = Texts(text)
    assert not {"script", "img", "iframe", "i", "object"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.findall(r'(?:src|href)="(?!#|[^":]+report\.html")', text)
    return page


def sections(page: Texts) -> list[str]:
    return [name for name in SECTIONS if name in page.text]


SECTIONS = (
    "Figures", "Learning curves", "ROC", "Precision and recall", "Calibration", "Throughput", "Memory", "Plan",
    "Tables", "Settings", "Where it comes from",
)  # fmt: skip


def test_training_leaves_a_page_with_all_that_it_says(run: Path) -> None:
    page = read(run / "report.html")
    summary = json.loads((run / "summary.json").read_text())
    assert sections(page) == list(SECTIONS)
    assert "finished" in page.text or "stopped early" in page.text
    for split in ("validation", "test"):
        assert f"{summary['metrics'][split]['auc']:.4f}" in page.text
        assert summary["data"][split] in page.text
    assert SCRIPT in page.text and "<i>run" in page.text, "names are there, as text"
    assert "model.mlp.hidden" in page.text and "[16, 8]" in page.text
    assert "shardrec train" in page.text and "torch" in page.text


def test_a_plan_that_was_damaged_by_hand_costs_its_section_alone(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    plan["tables"], plan["bytes_per_rank"] = plan["tables"][:1], dict(list(plan["bytes_per_rank"].items())[:1])
    facts = RunFacts.of(run)
    for _, content in damaged(plan):
        (run / "plan.json").write_text(json.dumps(content))
        plan_section(replace(facts, folder=RunFolder(run)))


def test_curves_are_those_of_the_best_checkpoint(run: Path) -> None:
    with package.open(run) as model:
        expected = model.curves()
    kept = json.loads((run / "curves.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    for split in ("validation", "test"):
        assert kept[split]["step"] == summary["best_step"]
        whole = expected.points.to_pandas().query(f"split == '{split}'")
        few = kept[split]["points"]
        x, y = (np.array(few[name]) for name in ("false_positive_rate", "true_positive_rate"))
        distance = np.abs(x[:, None] - whole["false_positive_rate"].to_numpy())
        distance = distance + np.abs(y[:, None] - whole["true_positive_rate"].to_numpy())
        assert distance.min(axis=1).max() < 1e-4, "each point is one of the whole curve's"
        assert np.trapezoid(y, x) == pytest.approx(summary["metrics"][split]["auc"], abs=5e-3)
        assert sum(kept[split]["histogram"]["positives"]) == pytest.approx(
            summary["metrics"][split]["label_mean"] * sum(kept[split]["calibration"]["weight"]), rel=1e-3
        )


def test_predicted_numbers_are_shown_beside_their_labels(finished: Path, tmp_path: Path) -> None:
    one = {"model": {"task": "regression"}, "trainer": {"max_steps": 2, "epochs": 1}}
    package.train(run_file(tmp_path / "run.yaml", finished.parent / "data", **one), quiet=True)
    page = read(tmp_path / "run/report.html").text
    shown = ("Calibration", "mean label", "Predictions and labels of test rows", "Errors of test rows")
    assert all(name in page for name in shown) and "Precision and recall" not in page
    kept = json.loads((tmp_path / "run/curves.json").read_text())["test"]
    summary = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]["test"]
    bins = {name: np.array(kept["calibration"][name]) for name in ("label_mean", "prediction_mean", "weight")}
    for name in ("label_mean", "prediction_mean"):
        assert np.average(bins[name], weights=bins["weight"]) == pytest.approx(summary[name], rel=1e-3)
    sums = [
        sum(kept[part][name]) for part, name in (("values", "predictions"), ("values", "labels"), ("errors", "weight"))
    ]
    assert sums == pytest.approx([bins["weight"].sum()] * 3)


def test_what_is_the_same_at_each_evaluation_has_no_chart_of_its_own(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    more = {"recall@20": 0.2, "popular_recall@20": 0.1, "users": 40, "ndcg@5": 0.3}
    lines = [line | (more if line["kind"] == "validation" else {}) for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = metrics_over_time([RunFacts.of(run)])
    assert {"recall@20", "ndcg@5"} < set(drawn) and not {"users", "rows", "popular_recall@20", "label_mean"} & set(
        drawn
    )
    page = read(package.report(run)).text
    assert "Recall@20" in page and "most popular" in page and "Users" not in page


def test_a_killed_run_is_shown_as_far_as_it_came(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "summary.json").unlink()
    (run / "report.html").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(line for line in lines if '"kind": "end"' not in line)[:-7])
    shardrec(monkeypatch, "report", run)
    page = read(run / "report.html")
    assert "unfinished" in page.text and "--resume" in page.text
    assert sections(page) == list(SECTIONS)


def test_of_an_older_folder_it_shows_what_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plan.json", "curves.json", "launches.jsonl", "metrics.jsonl", "plan.txt"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    shardrec(monkeypatch, "report", run, "--out", run / "other.html")
    assert sections(read(run / "other.html")) == ["Figures", "Calibration", "Settings", "Where it comes from"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "plan.json",
            '{"tables": [{"name": "<script>", "rows": "many"}, 3], "bytes_per_rank": {"x": ["y"], "<b>": 1}}',
        ),
        ("plan.json", "[1, 2"),
        ("curves.json", '{"test": {"step": 1, "points": {"precision": "<script>"}}, "validation": 3}'),
        (
            "launches.jsonl",
            '{"kind": "launch", "time": "x", "versions": ["<script>"], "cores": "<script>"}\n{"kind": 1}\n',
        ),
        ("metrics.jsonl", '{"kind": "train", "step": 1, "loss": "<script>", "<script>": 1, "time": []}\n'),
    ],
)
def test_what_is_not_of_the_type_expected_counts_as_absent(
    run: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / name).write_text(content)
    shardrec(monkeypatch, "report", run)
    read(run / "report.html")


# ------------------------------------------------------------ what is a user's stays


def test_a_page_of_somebody_elses_stays_and_the_run_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").write_text("my notes")
    report_or_warn(run)
    assert "warning: no report.html" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "my notes"


def test_a_run_that_fails_says_so_on_its_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster = ("--set", "optimizer.tables.learning_rate=1e9", "--set", "optimizer.tower.learning_rate=1e9")
    more = ("--set", "trainer.epochs=9", "--set", "trainer.early_stopping.patience=9")
    line = refused(monkeypatch, "train", run / "config.yaml", "--resume", "--quiet", *faster, *more)
    page = read(run / "report.html")
    assert line.removeprefix("shardrec: error: ") in page.text and "unfinished" in page.text


def test_bad_input_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.html").write_text("<!doctype html>mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated/simulation.yaml").touch()
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tmp_path / "absent",), "no such folder"),
        ((tmp_path / "empty",), r"not a run folder \(no config.yaml in it\)"),
        ((tmp_path / "simulated",), "a simulation, which is not one run"),
        ((run, "--out", tmp_path / "notes.html"), "not replaced, since nothing in it proves"),
        ((run, "--out", tmp_path / "empty"), "a folder, where a page is to be written"),
        ((run, "--out", tmp_path / "absent/page.html"), "no folder .*absent"),
        ((run, run), "name it with --out"),
        ((run, "--slices", "usre"), "--slices: .*usre.*user"),
        ((run, run, "--out", tmp_path / "both.html", "--slices", "user"), "--slices is for the report of one run"),
    ]
    for arguments, expected in cases:
        assert re.search(expected, refused(monkeypatch, "report", *arguments)), arguments
    assert (tmp_path / "notes.html").read_text() == "<!doctype html>mine"


# ------------------------------------------------------------ several runs


def test_runs_side_by_side_with_the_best_marked(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    summary = json.loads((other / "summary.json").read_text())
    summary["metrics"]["test"] |= {"auc": 0.999, "log_loss": 9.0}
    summary["data"]["test"] = "f00"
    (other / "summary.json").write_text(json.dumps(summary))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("embedding_dim: 4", "embedding_dim: 8"))
    page = package.report([run, other], tmp_path / "both.html")
    text = page.read_text()
    best = re.findall(r'<td class="best">([^<]+)</td>', text)
    own = RunFacts.of(run).metrics["test"]
    assert set(best) == {"0.9990", f"{own['log_loss']:.4f}"}, "larger AUC, smaller log loss"
    assert "fingerprints differ" in text
    differing = text[text.index("Settings that differ") :]
    assert "model.embedding_dim" in differing and "trainer.epochs" not in differing
    assert 'href="other/report.html"' in text
    read(page)


@pytest.mark.parametrize(
    ("values", "larger", "best"),
    [
        ([0.5, None, 0.7], True, 0.7),
        ([0.5, 0.7], False, 0.5),
        ([0.5], True, None),
        ([1, 1], True, None),
        ([1, 2], None, None),
    ],
)
def test_the_best_of_values(values: list[float | None], larger: bool | None, best: float | None) -> None:
    assert best_of(values, larger=larger) == best


def test_a_comparison_has_a_page_and_so_have_its_runs(run: Path, tmp_path: Path) -> None:
    """As the command has it written after each run."""
    (tmp_path / "all").mkdir()
    (tmp_path / "all/compare.csv").touch()
    for count, name in enumerate(("lr/seed-0", "lr/seed-10", "lr/seed-9", "fm/seed-0"), start=1):
        place = Path(shutil.copytree(run, tmp_path / "all" / name, ignore=shutil.ignore_patterns("report.html")))
        report_comparison(tmp_path / "all")
        assert "<i>" not in read(place / "report.html").text
        assert (tmp_path / "all/report.html").exists() == (count > 1)
    page = read(tmp_path / "all/report.html").text
    order = [page.index(name) for name in ("fm/seed-0", "lr/seed-0", "lr/seed-9", "lr/seed-10")]
    assert "Comparison all" in page and order == sorted(order)
    assert "Mean and standard deviation over seeds" in page and " ± 0.0000" in page
    package.report(tmp_path / "all")
    assert "4 runs side by side" in read(tmp_path / "all/report.html").text


def test_stages_have_pages_that_the_whole_leads_to(finished: Path, tmp_path: Path) -> None:
    stages = [{"name": "first"}, {"name": "second", "init_from": [{"stage": "first"}]}]
    path = run_file(
        tmp_path / "run.yaml", finished.parent / "data", stages=stages, trainer={"max_steps": 2, "epochs": 1}
    )
    package.train(path, quiet=True)
    read(tmp_path / "run/first/report.html")
    whole = (tmp_path / "run/report.html").read_text()
    assert 'href="first/report.html"' in whole and 'href="second/report.html"' in whole
    shutil.rmtree(tmp_path / "run/second")
    assert "not begun" in read(package.report(tmp_path / "run")).text


# ------------------------------------------------------------ over several commands


def test_memory_goes_on_where_the_command_before_ended(run: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"kind": "launch", "time": 1000.0},
        {"kind": "memory", "time": 1002.0, "bytes": 5},
        {"kind": "memory", "time": 1010.0, "bytes": 9},
        {"kind": "launch", "time": 9000.0},
        {"kind": "memory", "time": 9001.0, "bytes": 3},
    ]
    (run / "launches.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = memory_over_time(RunFacts.of(run))
    assert found.series == [(2.0, 5.0), (10.0, 9.0), (11.0, 3.0)] and found.begun == [10.0]


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder given"):
        package.report([], tmp_path / "x.html")
