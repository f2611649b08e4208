"""Trackers: what they get of a run and of a resumed one, and what one that cannot be reached costs a run: a line."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import shardrec as package
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.comparison.compare import train_one
from shardrec.trainer.config.load import load, parse
from shardrec.trainer.config.trust import check_trusted
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.tracking.follower import Follower, tracker_called
from shardrec.trainer.tracking.job import Ending, Job
from shardrec.trainer.tracking.mlflow_run import alone
from shardrec.trainer.tracking.records import Records
from shardrec.trainer.training.train_run import train_run
from tests.trainer.command_line import refused
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tracking") / "data", rows=600)


def line(kind: str, step: int, **values: Any) -> str:
    return json.dumps({"kind": kind, "step": step, "time": 100.0 + step, **values}) + "\n"


def a_job(folder: Path, uri: str) -> Job:
    folder.mkdir(exist_ok=True)
    config = {"model": {"name": "lr"}, "tables": {"*": {"dtype": "fp16"}}, "trainer": {"epochs": 3}}
    settings = {"uri": uri, "experiment": "clicks", "name": None}
    return Job("mlflow", str(folder), str(folder), "lr/seed-0", "compared", settings, config, str(folder))


def follow(job: Job, *ends: Ending | None) -> bool:
    """Follows a run that goes on for as many looks as there are Nones."""
    left: Iterator[Ending | None] = iter(ends)
    return Follower(job, tracker_called("mlflow")).follow(lambda seconds: next(left))


def test_mlflow_has_what_was_recorded_and_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder, uri = tmp_path / "run", f"file://{tmp_path}/mlflow"
    job = a_job(folder, uri)
    first = line("start", 0, resumed=False, world_size=2) + line("train", 1, loss=0.7)
    (folder / "metrics.jsonl").write_text(first + line("validation", 2, auc=0.6, gauc=None, **{"recall@5": 0.25}))
    assert follow(job, None, None, "stopped")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("clicks").experiment_id])
    assert run.info.status == "KILLED" and run.info.run_name == "lr/seed-0"
    assert run.data.params == {"model.name": "lr", "tables._.dtype": "fp16", "trainer.epochs": "3"}
    assert run.data.tags["shardrec.run_folder"] == str(folder) and run.data.tags["shardrec.group"] == "compared"
    wanted = {"train/loss": 0.7, "validation/auc": 0.6, "validation/recall_at_5": 0.25, "start/world_size": 2}
    assert run.data.metrics == wanted

    # the run is resumed at step 1, makes step 2 again, and is finished
    write_atomically(folder / "metrics.jsonl", first + line("validation", 2, auc=0.6) + line("validation", 4, auc=0.7))
    (folder / "summary.json").write_text(json.dumps({"steps": 4, "metrics": {"test": {"auc": 0.65}}, "finished": True}))
    (folder / "config.yaml").write_text("run: here\n")
    (folder / "report.html").write_text("<!doctype html>")
    assert follow(job, None, "finished")
    (same,) = client.search_runs([client.get_experiment_by_name("clicks").experiment_id])
    assert same.info.run_id == run.info.run_id and same.info.status == "FINISHED"
    history = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(same.info.run_id, "validation/auc")]
    assert history == [(2, 0.6, 102_000), (4, 0.7, 104_000)]  # each step once
    assert same.data.metrics["summary/metrics/test/auc"] == 0.65
    assert {file.path for file in client.list_artifacts(same.info.run_id)} == {
        "config.yaml", "report.html", "summary.json"
    }  # fmt: skip


def test_a_new_database_is_made_by_one_run_at_a_time(tmp_path: Path) -> None:
    """As runs of a comparison or a search begin at once: MLflow would make its tables twice, and fail."""
    inside: list[int] = []

    def make(number: int) -> list[int]:
        with alone(f"sqlite:///{tmp_path}/mlflow.db"):
            inside.append(number)
            time.sleep(0.02)
            found = list(inside)
            inside.remove(number)
        return found

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(make, range(4))) == [[0], [1], [2], [3]]


def test_records_are_read_as_they_come_and_again_where_the_file_was_replaced(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    records = Records(file)
    assert records.new() == []
    file.write_text(line("train", 1, loss=0.5) + line("train", 2, loss=0.4)[:-9])  # a line that is being written
    assert [record.step for record in records.new()] == [1] and records.new() == []
    file.write_text(line("train", 1, loss=0.5) + line("train", 2, loss=0.4) + "broken\n" + line("train", 3, loss=0.3))
    assert [(record.step, record.values) for record in records.new()] == [(2, {"loss": 0.4}), (3, {"loss": 0.3})]
    write_atomically(file, line("train", 1, loss=0.5))
    assert [record.step for record in records.new()] == [1]


@pytest.mark.long
def test_a_tracker_that_cannot_be_reached_costs_a_line_and_another_beside_it_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections, and never answers
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("WANDB_MODE", "offline")
        uri = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        tracking = {"mlflow": {"uri": uri}, "wandb": {"project": "clicks"}}
        path = run_file(tmp_path / "run.yaml", data, trainer={"tracking": tracking, "epochs": 1})
        summary = train_run(load(path), quiet=True)
    assert summary is not None and summary["steps"] == 3
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "tracking" in line]
    assert said.startswith("tracking: mlflow: ") and said.endswith("metrics.jsonl has all of it")
    folder = tmp_path / "run"
    kept = json.loads((folder / "tracking/wandb.json").read_text())
    assert kept["sent"] == {"start": 0, "train": 3, "validation": 3, "end": 3}
    assert not (folder / "tracking/mlflow.json").exists()
    (offline,) = (folder / "tracking/wandb").glob(f"offline-run-*-{kept['run']}")
    written = (offline / f"run-{kept['run']}.wandb").read_bytes()
    assert written.count(b"train/loss") >= 3 and b"validation/auc" in written and b"clicks" in written
    assert (offline / "files/shardrec/summary.json").read_bytes() == (folder / "summary.json").read_bytes()
    assert not [p for p in psutil.Process().children(recursive=True) if "wandb" in " ".join(p.cmdline())]


@pytest.mark.long
def test_runs_of_a_comparison_and_of_a_search_bring_their_pages(data: Path, tmp_path: Path) -> None:
    tracking = {"tracking": {"mlflow": {"uri": f"file://{tmp_path}/mlflow"}}, "max_steps": 1}
    train_one(load(run_file(tmp_path / "run.yaml", data, trainer=tracking)), tmp_path, quiet=True)
    (kept,) = (tmp_path / "mlflow").glob("*/*/artifacts/report.html")
    assert kept.read_bytes() == (tmp_path / "run/report.html").read_bytes()

    space = {"space": {"optimizer.tower.learning_rate": [0.01]}}
    tracking = {"tracking": {"wandb": {"mode": "offline"}}, "max_steps": 1}
    searched = run_file(tmp_path / "searched.yaml", data, trainer=tracking, tune=space)
    found = package.tune(searched, trials=1, jobs=0, quiet=True)
    (kept,) = (found.run_folder / "tracking/wandb").glob("offline-run-*/files/shardrec/report.html")
    assert kept.read_bytes() == (found.run_folder / "report.html").read_bytes()


@pytest.mark.parametrize("tracking", ["mlflow", ["mlflow"], {"mlflow": {}}])
def test_a_tracker_is_named_alone_in_a_list_or_with_settings(tracking: Any) -> None:
    declared = {"run": "r", "data": {}, "model": "lr", "trainer": {"tracking": tracking}}
    config = parse(declared, "run.yaml").trainer.tracking
    assert config is not None and list(config.trackers) == ["mlflow"]


def test_a_tracker_that_is_not_installed_or_known_is_said_before_anything_starts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer={"tracking": "wandb"})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "wandb", None)
        line = refused(monkeypatch, "train", path)
        assert "trainer.tracking: needs wandb; in a clone of shardrec, pip install '.[wandb]'" in line
        without.setitem(sys.modules, "sqlalchemy", None)
        line = refused(monkeypatch, "train", path, "--set", "trainer.tracking=mlflow")
        assert "trainer.tracking: needs sqlalchemy; in a clone of shardrec, pip install '.[mlflow]'" in line
    line = refused(monkeypatch, "train", path, "--set", "trainer.tracking=mlfow")
    assert "in trainer.tracking: unknown key 'mlfow'; did you mean 'mlflow'?" in line
    assert not (tmp_path / "run").exists()


def test_a_strangers_run_folder_names_no_server_that_records_go_to(tmp_path: Path) -> None:
    declared = {"model": "lr", "trainer": {"tracking": {"mlflow": {"uri": "http://elsewhere"}}}}
    with pytest.raises(UserError, match="would send what it records to http://elsewhere; give --trust"):
        check_trusted(declared, tmp_path, trains=True)
    check_trusted(declared, tmp_path)  # scoring sends nothing
