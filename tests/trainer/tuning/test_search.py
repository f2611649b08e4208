"""Searches: what is found, trials that fail or are pruned, a search that was killed, what cannot be searched for."""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.tuning.plan import RunFile, planned
from shardrec.trainer.tuning.workplace import Workplaces
from tests.trainer.catalogue import small_catalogue
from tests.trainer.catalogue.small_catalogue import write_shop
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as run_command
from tests.trainer.small_run import run_file, write_data

RATE = "optimizer.tower.learning_rate"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tune") / "data", rows=600)


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "trials.csv").read_text().splitlines()))


def test_a_grid_is_searched_through_and_trials_that_fail_are_passed_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = {"sampler": "grid", "pruner": "none", "keep": 1, "metric": "log_loss"}
    searched |= {"space": {RATE: [0.02, 1e30], "model.mlp.hidden": [[16], [4, 4]]}}
    path, out = run_file(tmp_path / "run.yaml", data, tune=searched, trainer={"epochs": 1}), tmp_path / "run-tune"
    run_command(monkeypatch, "tune", path, "--jobs", 0, "--quiet")
    printed = capsys.readouterr().out
    assert "2 finished, 0 pruned, 2 failed" in printed and "failed: trial 1: step 2: the loss is not finite" in printed
    table = rows(out)
    settings = [(row["model.mlp.hidden"], float(row[RATE])) for row in table]
    assert settings == [("[16]", 0.02), ("[16]", 1e30), ("[4, 4]", 0.02), ("[4, 4]", 1e30)]
    assert [row["state"] for row in table] == ["finished", "failed", "finished", "failed"]
    losses = {}
    for number in (0, 2):
        folder = RunFolder.open(out / f"trial-000{number}")
        found = folder.summary()
        assert found is not None and float(table[number]["log_loss"]) == found["metrics"]["validation"]["log_loss"]
        losses[number] = float(table[number]["log_loss"])
        assert folder.config().trainer.best_metric == "log_loss"
    best = min(losses, key=losses.__getitem__)
    assert f"best: trial {best}, " in printed
    for number in (0, 2):  # checkpoints of all but the best are removed
        assert bool(RunFolder(out / f"trial-000{number}").steps()) == (number == best)
    page = (out / "report.html").read_text()
    assert "4 of 4 trials are over" in page and "Failed: trial 3: step 2: the loss is not finite" in page
    assert f"best {losses[best]:.4f}" in page and "What mattered" in page
    for number in range(4):  # what failed before its first checkpoint left no folder
        assert (f'href="trial-000{number}/report.html"' in page) == (number in losses)
        assert (out / f"trial-000{number}/report.html").exists() == (number in losses)
    assert "a search, whose page" in refused(monkeypatch, "report", out)
    again = load(out / "best.yaml")
    assert (again.optimizer.tower.learning_rate, again.model["mlp"]["hidden"]) == (0.02, [16] if best == 0 else [4, 4])
    summary = train_run(again, quiet=True)
    assert summary is not None and summary["metrics"]["validation"]["log_loss"] == losses[best]

    before = (out / "trials.csv").read_bytes()
    run_command(monkeypatch, "tune", path, "--jobs", 0, "--resume")  # there is nothing left to do
    assert (out / "trials.csv").read_bytes() == before
    again_line = refused(monkeypatch, "tune", path, "--jobs", 0)
    assert "holds a search already; go on with it by --resume" in again_line
    other = ("--resume", "--set", "trainer.seed=3")
    assert "(trainer.seed was 0, now 3)" in refused(monkeypatch, "tune", path, "--jobs", 0, *other)
    narrower = ("--resume", "--set", f'tune.space={{"{RATE}": [0.02]}}')
    assert "through another space" in refused(monkeypatch, "tune", path, "--jobs", 0, *narrower)


def test_a_trial_that_lags_is_asked_to_stop_and_leaves_whole_checkpoints(data: Path, tmp_path: Path) -> None:
    variants = {
        "quick": {"trainer": {"epochs": 2}},
        "idle": {"trainer": {"epochs": 1000}, "optimizer": {"tower": {"learning_rate": 1e-9}}},
    }
    pruner = {"name": "median", "startup_trials": 1}
    space = {"variant": ["quick", "idle"]}
    searched = {"sampler": "grid", "pruner": pruner, "keep": None, "metric": "auc", "space": space}
    tables = {"tables": {"name": "adagrad", "learning_rate": 1e-3}}
    path = run_file(tmp_path / "run.yaml", data, tune=searched, variants=variants, optimizer=tables)
    found = shardrec.tune(path, jobs=0, quiet=True)
    assert [row["state"] for row in found.trials] == ["finished", "pruned"] and found.settings == {"variant": "quick"}
    lagging = RunFolder(found.folder / "trial-0001")
    evaluations = [record for record in lagging.records() if record["kind"] == "validation"]
    assert 1 <= found.trials[1]["evaluations"] == len(evaluations) < 1000
    assert lagging.summary() is None and lagging.steps()[-1] >= evaluations[-1]["step"]
    assert not list(lagging.checkpoints.glob(".step-*"))
    assert found.trials[1]["auc"] == evaluations[-1]["auc"]
    assert "pruned, when it was stopped" in (found.folder / "report.html").read_text()
    assert "The last command ended with" in (lagging.path / "report.html").read_text()
    resumed = train_run(load(lagging.config_file, ["trainer.epochs=2"]), resume=True, quiet=True)
    assert resumed is not None and resumed["steps"] == lagging.steps()[-1]  # it is an ordinary run, stopped


def test_a_search_that_was_killed_asks_for_what_was_being_trained_again(data: Path, tmp_path: Path) -> None:
    """A kill leaves a trial that is said to run, of which nobody will tell the end."""
    searched = {"sampler": "random", "metric": "auc", "space": {RATE: {"log": [1e-3, 1e-1]}}}
    path, out = run_file(tmp_path / "run.yaml", data, tune=searched, trainer={"max_steps": 1}), tmp_path / "out"
    first = shardrec.tune(path, jobs=0, trials=1, out=out, quiet=True)
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{out}/study.db")
    killed = study.ask()
    rate = killed.suggest_float(RATE, 1e-3, 1e-1, log=True)
    found = shardrec.tune(path, jobs=0, trials=3, out=out, resume=True, quiet=True)
    assert [row["state"] for row in found.trials] == ["finished", "failed", "finished", "finished"]
    assert found.trials[1]["failure"] == "the search was stopped while it trained"
    assert found.trials[0] == first.trials[0] and found.trials[1][RATE] == found.trials[2][RATE] == rate
    assert len({row[RATE] for row in found.trials}) == 3  # what is drawn anew is not what was drawn before
    assert "3 of 3 trials are over" in (out / "report.html").read_text()
    assert study.trials[1].state == optuna.trial.TrialState.FAIL
    with pytest.raises(UserError, match="holds no search to go on with; leave resume=True out"):
        shardrec.tune(path, jobs=0, out=tmp_path / "elsewhere", resume=True)
    with pytest.raises(UserError, match="none has begun within timeout"):
        shardrec.tune(path, jobs=0, timeout=0, out=tmp_path / "no_time", quiet=True)
    timed = shardrec.tune(path, jobs=0, trials=5, timeout=0, out=out, resume=True, quiet=True)
    assert timed.trials == found.trials  # no trial begins once time is over
    for damage, said in (("cut short", "study.db: .*not a database"), (None, "study.db: is gone")):
        (out / "study.db").write_text(damage) if damage else (out / "study.db").unlink()
        with pytest.raises(UserError, match=said):
            shardrec.tune(path, jobs=0, out=out, resume=True)


def trial_processes() -> list[psutil.Process]:
    """Processes of trials; other children, such as the resource tracker of multiprocessing, serve all tests."""
    return [child for child in psutil.Process().children() if "trial_process" in " ".join(child.cmdline())]


@pytest.mark.long
def test_processes_train_trials_and_are_replaced_where_they_die(data: Path, tmp_path: Path) -> None:
    config = load(run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2}))
    named = [config.model_copy(update={"run": str(tmp_path / name)}) for name in ("killed", "whole")]
    with Workplaces(1, tmp_path) as workplaces:
        dying = workplaces.train(named[0])
        while not (children := trial_processes()):
            time.sleep(0.01)
        children[0].kill()
        line = dying.result()
        assert line is not None and line.startswith("ChildProcessError: its process died")
        assert workplaces.train(named[1]).result() is None
        refusal = workplaces.train(named[1]).result()
        assert refusal is not None and "holds a run already" in refusal
        processes = trial_processes()
    assert not psutil.wait_procs(processes, timeout=10)[1]
    summary = RunFolder(tmp_path / "whole").summary()
    assert summary is not None and summary["steps"] == 2


def test_a_search_may_go_by_lists_of_the_whole_catalogue(tmp_path: Path) -> None:
    lists = {"evaluation": {"catalogue": {"top_k": [5]}}}
    shop, searched = write_shop(tmp_path / "shop"), {"space": {RATE: [0.1, 0.2]}}
    path = small_catalogue.run_file(tmp_path / "run.yaml", shop, trainer=lists, tune=searched)
    plan = planned(RunFile.read(path), None)
    assert (plan.metric, plan.larger_is_better) == ("recall@5", True)
    by_place = planned(RunFile.read(path, ("tune.metric=mrr@5",)), None)
    assert (by_place.metric, by_place.larger_is_better) == ("mrr@5", True)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"space": {"optimizer.tower.learning_rat": [1, 2]}},
        "unknown key 'learning_rat'; did you mean",
    ),
    (
        {"space": {"model.embeding_dim": [2, 4]}},
        "unknown key 'embeding_dim'; did you mean 'embedding_dim'?",
    ),
    ({"space": {RATE: [0.1, "fast"]}}, "optimizer.tower.learning_rate"),
    ({"space": {"run": ["a", "b"]}}, "run is the same in all trials"),
    ({"space": {"data.validation": ["a", "b"]}}, "data.validation is the same in all trials"),
    ({"space": {}}, "has no `tune.space` to search"),
    ({"metric": "acu", "space": {RATE: [0.1, 0.2]}}, "did you mean 'auc'?"),
    ({"metric": "label_mean", "space": {RATE: [0.1, 0.2]}}, "label_mean"),
    ({"sampler": "grid", "space": {RATE: {"log": [0.1, 0.2]}}}, "a range without steps"),
    ({"space": {"variant": ["dcnn"]}}, "unknown variant or model 'dcnn'"),
    (
        {"space": {"model.mlp": [{"hidden": [4]}], "model.mlp.hidden": [[4], [8]]}},
        "model.mlp.hidden is a part of model.mlp",
    ),
    ({"metric": "log_loss", "space": {"trainer.early_stopping.metric": ["auc"]}}, "leave one of them out"),
]


@pytest.mark.parametrize(("searched", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_what_cannot_be_searched_for_is_said_before_anything_starts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: dict[str, Any], said: str
) -> None:
    path = run_file(tmp_path / "run.yaml", data, tune=searched)
    assert said in refused(monkeypatch, "tune", path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]


def test_a_search_needs_optuna_validation_rows_and_a_folder_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_file(tmp_path / "run.yaml", data, tune={"space": {RATE: [0.1, 0.2]}})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "optuna", None)
        assert "needs optuna; in a clone of shardrec, pip install '.[tune]'" in refused(monkeypatch, "tune", path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    assert "not the folder of a search" in refused(monkeypatch, "tune", path, "--out", tmp_path / "other")
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["mine.txt"]
    assert f"tune.space searches for {RATE}" in refused(monkeypatch, "tune", path, "--set", f"{RATE}=0.3")
    assert "--timeout 'soon': expected a time" in refused(monkeypatch, "tune", path, "--timeout", "soon")
    trained = yaml.safe_load(path.read_text())
    trained["data"] |= {"path": None, "schema": str(data / "schema.yaml"), "train": str(data / "train")}
    path.write_text(json.dumps(trained))
    assert "judged by validation rows, of which there are none" in refused(monkeypatch, "tune", path)
    assert pq.read_table(data / "train").num_rows == 601
