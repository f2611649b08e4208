"""Comparisons: killed in the middle and taken up again, runs that fail beside others, and what cannot be compared."""

import csv
import json
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.comparison.compare import compare_models
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.training.train_run import train_run
from tests.trainer.command_line import refused, shardrec
from tests.trainer.small_run import run_file, write_data
from tests.trainer.started import started

CRASHES = """
import os
from pathlib import Path

from shardrec.models.lr import LR, LRConfig

MARK = Path({mark!r})


class CrashesOnce(LR):
    def __init__(self, fields, config: LRConfig) -> None:
        super().__init__(fields, config)

    def forward(self, field, dense):
        if not MARK.exists():
            MARK.touch()
            os._exit(7)
        return super().forward(field, dense)


class BreaksItsGpuOnce(LR):
    broken = False  # as a GPU's state is in a process that has met a CUDA error: for good

    def __init__(self, fields, config: LRConfig) -> None:
        super().__init__(fields, config)

    def forward(self, field, dense):
        mark = MARK.with_name("broken")
        if BreaksItsGpuOnce.broken or not mark.exists():
            mark.touch()
            BreaksItsGpuOnce.broken = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().forward(field, dense)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("compare") / "data", rows=600)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def kill_within_second_run(path: Path, out: Path) -> None:
    """Starts a comparison and kills it, and it alone, once its second run has a checkpoint; the run ends with it."""
    process = started("compare", path, "--models", "base,deep", "--seeds", 2, log=path.with_name("log"))
    second = out / "deep/seed-0/checkpoints"
    while not any(second.glob("step-*/manifest.json")) and process.is_alive():
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"
    assert children and not psutil.wait_procs(children, timeout=100)[1]


@pytest.mark.long
def test_killed_in_the_middle_and_taken_up_again_beside_runs_that_fail(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crashing_model.py").write_text(CRASHES.format(mark=str(tmp_path / "crashed")))
    variants = {
        "bad": {"model": {"name": "lr", "embeding_dim": 1}},
        "base": {"model": "lr", "trainer": {"epochs": 1}},
        "crash": {"model": "crashing_model:CrashesOnce", "trainer": {"epochs": 1}},
        "cuda": {"model": "crashing_model:BreaksItsGpuOnce", "trainer": {"epochs": 1}},
        "deep": {"trainer": {"epochs": 12, "evaluation": {"every_epochs": 4}}},
    }
    rare = {"checkpoint": {"every_steps": 10, "every_epochs": None}}
    path = run_file(tmp_path / "run.yaml", data, variants=variants, trainer=rare)
    out = tmp_path / "run"
    kill_within_second_run(path, out)
    assert [(r["model"], r["runs"]) for r in rows(out / "compare.csv")] == [("base", "1"), ("deep", "0")]
    first = out / "base/seed-0/summary.json"
    written, kept = first.stat().st_mtime_ns, first.read_text()

    command = ("compare", path, "--seeds", 2, "--quiet")
    shardrec(monkeypatch, *command, status=1)
    printed = capsys.readouterr().out
    assert printed.count("failed: bad, seed") == 2 and "model lr: unknown key 'embeding_dim'" in printed
    (log,) = (out / "crash/seed-0/logs").glob("train-*/driver.log")
    assert printed.count("failed: crash, seed") == 1
    assert f"failed: crash, seed 0: its process died; see {log}" in printed
    assert printed.count("failed: cuda, seed") == 1  # the second seed's run has a process of its own
    gone = "RuntimeError: CUDA error: an illegal memory access was encountered ("
    assert f"failed: cuda, seed 0: step 1: {gone}" in printed
    found = rows(out / "compare.csv")
    assert [(r["model"], r["runs"], r["failed"]) for r in found] == [
        ("bad", "0", "2"),
        ("base", "2", "0"),
        ("crash", "1", "1"),
        ("cuda", "1", "1"),
        ("deep", "2", "0"),
    ]
    assert (first.stat().st_mtime_ns, first.read_text()) == (written, kept)
    pages = {str(page.parent.relative_to(out)) for page in out.rglob("report.html")}
    seeds = {f"{model}/seed-{seed}" for model in ("base", "deep") for seed in (0, 1)}
    assert pages >= {".", *seeds}, "also of the run that had finished before the kill"
    assert summary(out / "deep/seed-0")["first_step"] > 0
    assert summary(out / "deep/seed-1")["first_step"] == 0
    assert_equals_summaries(out)

    shardrec(monkeypatch, *command, "--models", "base,deep")  # all of it is there already
    assert capsys.readouterr().out.count("±") == 2 * len(("auc", "log_loss", "normalized_entropy"))
    quieter = ("--set", "trainer.tensorboard=false", "--set", "launch.timeout=60")
    shardrec(monkeypatch, *command, "--models", "base,deep", *quieter)  # how a run is watched may differ
    line = refused(monkeypatch, *command, "--set", "optimizer.tower.learning_rate=0.5")
    assert "seed-0: holds a run of other settings (optimizer.tower.learning_rate was 0.01, now 0.5)" in line


def assert_equals_summaries(out: Path) -> None:
    for row in (r for r in rows(out / "compare.csv") if r["runs"] == "2"):
        found = [summary(out / row["model"] / f"seed-{seed}") for seed in (0, 1)]
        for metric in ("auc", "log_loss"):
            values = [s["metrics"]["test"][metric] for s in found]
            assert float(row[metric]) == pytest.approx(statistics.fmean(values), abs=1e-15)
            assert float(row[f"{metric}_std"]) == pytest.approx(statistics.stdev(values), abs=1e-15)
        assert int(row["tower_parameters"]) == found[0]["parameters"]["tower"]
        weights = (5 if row["model"] == "deep" else 1) * (301 + 97 + 3 + 40 + 11)
        assert int(row["table_parameters"]) == weights
    for row in (r for r in rows(out / "runs.csv") if not r["failure"]):
        of_run = summary(out / row["model"] / f"seed-{row['seed']}")
        assert float(row["test/auc"]) == of_run["metrics"]["test"]["auc"]
        assert float(row["validation/rows"]) == of_run["metrics"]["validation"]["rows"]


def test_what_is_finished_stays_while_its_rows_are_the_same(data: Path, tmp_path: Path) -> None:
    """In a file that holds variants alone."""
    own = Path(shutil.copytree(data, tmp_path / "data"))
    path = run_file(tmp_path / "run.yaml", own, variants={"linear": {"model": "lr"}}, trainer={"max_steps": 1})
    content = yaml.safe_load(path.read_text())
    del content["model"]
    path.write_text(yaml.safe_dump(content))
    once = load(path, ["trainer.seed=0"], variant="linear")
    train_run(once.model_copy(update={"run": f"{once.run}/seed-0"}), quiet=True)
    board = compare_models(path, (), 1, (), None, quiet=True)
    assert [o.summary for o in board.outcomes] == [summary(tmp_path / "run/linear/seed-0")]
    for split in ("train", "validation", "test"):
        file = own / split / "0.parquet"
        kept = file.read_bytes()
        pq.write_table(pq.read_table(file).slice(1), file)
        with pytest.raises(UserError, match=f"run/linear/seed-0: its {split} rows have changed"):
            compare_models(path, (), 1, (), None, quiet=True)
        file.write_bytes(kept)


def test_what_cannot_be_compared(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.yaml", data)
    for models, line in (((), "no `variants` to compare"), (("deepfn",), "did you mean 'deepfm'")):
        with pytest.raises(UserError, match=line):
            compare_models(path, models, 1, (), None)
    other = {"lr": {"model": "lr"}, "fm": {"model": "fm", "data": {"test": str(data / "validation")}}}
    path = run_file(tmp_path / "run.yaml", data, variants=other)
    with pytest.raises(UserError, match="compared on the same rows, but the test rows"):
        compare_models(path, (), 1, (), None)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(UserError, match="without torchrun"):
        compare_models(path, ("lr",), 1, (), None)
    assert not (tmp_path / "run").exists()


def test_a_comparison_has_its_folder_alone(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, variants={"base": {"model": "lr"}})
    with locked(tmp_path / "run", "compare-there"):
        with pytest.raises(UserError, match=r"run: in use by `compare` \(process \d+ on "):
            compare_models(path, [], 1, (), None, quiet=True)
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
