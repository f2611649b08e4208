"""Killed by SIGKILL and resumed: as if nothing had happened, and shown to have resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from shardrec.data_pipeline.errors import UserError
from shardrec.models.kernels.sources import compiler
from shardrec.models.layers.kernels import library as of_towers
from shardrec.sharding.updates import compiled_rows
from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.checkpoints.manifest import TOWER_FILE, file_entry, read_manifest, write_manifest
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.evaluate import evaluate_run
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from tests import ROOT
from tests.processes import run_processes
from tests.trainer.command_line import shardrec
from tests.trainer.recorded import assert_same_checkpoint, records, tower, train, train_in_processes, whole_tables
from tests.trainer.small_run import run_file, table, write_data, write_names_of_layers
from tests.trainer.started import started

EVERY = 7
SETTINGS = {
    "trainer": {
        "epochs": 3,
        "checkpoint": {"every_steps": EVERY},
        "evaluation": {"every_steps": 5},
        "progressive_validation": True,
        "log_every_steps": 3,
    },
    "tables": {
        "item": {"dtype": "fp16"},  # rounded by draws that have to go on, too
        "user": {"dynamic": {"rows": 120, "after": 2}},  # of 301 users
    },
}
OWN_MODEL = """
from models.taste import DIM
from shardrec import Fields, PointwiseConfig, PooledEmbeddings, Recommender


class Own(Recommender):
    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        tables = fields.tables(embedding_dim=DIM)
        super().__init__(inputs={"field": PooledEmbeddings(tables)}, task=config.build_task(fields.schema))

    def forward(self, field):
        return field.sum((1, 2))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("resume") / "data", rows=2400)


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, Any]]:
    path = run_file(tmp_path_factory.mktemp("unbroken") / "run.yaml", data, **SETTINGS)
    result = train(path)
    return RunFolder.open(load(path).run), result


def start(path: Path, *flags: str) -> subprocess.Popen:
    """A command in the run file's folder, which `python -m` puts first on sys.path."""
    command = [sys.executable, "-m", "shardrec", "train", str(path), "--quiet", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=path.parent, env=environment, start_new_session=True)


def last_step(folder: Path) -> int:
    try:
        *lines, _ = (folder / "metrics.jsonl").read_text().split("\n")  # the rest is being written
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def test_says_that_rows_and_tower_are_computed_by_another_form(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where a machine has no compiler: the run goes on, equal to rounding."""
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS | {"trainer": {"max_steps": 2}})
    shardrec(monkeypatch, "train", path, "--quiet")
    for module in (compiled_rows, of_towers):
        monkeypatch.setattr(module, "library", lambda: None)
    shardrec(monkeypatch, "train", path, "--quiet", "--resume", "--set", "trainer.max_steps=3")
    said = [line for line in capfd.readouterr().err.splitlines() if "by the torch kernel" in line]
    assert len(said) == 2 and "rows of tables" in said[0] and "the tower" in said[1]
    assert all("until here by the compiled one" in line and "not bit for bit" in line for line in said)
    starts = [r for r in RunFolder.open(tmp_path / "run").records() if r["kind"] == "start"]
    assert [(r["rows"], r["tower"]) for r in starts] == [("compiled", "compiled"), ("torch", "torch")]


def test_a_killed_run_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, unbroken: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in this process, whose generators are anywhere."""
    expected, result = unbroken
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    killed_after = random.Random(os.getpid()).randrange(EVERY, result["steps"] - 2)
    process = started("train", path, "--quiet", log=tmp_path / "log")
    while last_step(tmp_path / "run") < killed_after and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"
    folder = RunFolder.open(tmp_path / "run")
    done, kept = last_step(folder.path), folder.steps()[-1]
    shardrec(monkeypatch, "train", path, "--quiet", "--resume")
    summary = json.loads(folder.summary_file.read_text())

    assert summary["first_step"] == kept
    assert done - kept <= EVERY
    assert (summary["steps"], summary["rows"]) == (result["steps"], result["rows"])
    assert summary["metrics"] == result["metrics"]
    assert records(folder) == records(expected)
    assert_same_checkpoint(folder.checkpoint(result["steps"]), expected.checkpoint(result["steps"]))
    assert folder.best_step() == expected.best_step()


@pytest.mark.long
def test_three_ranks_resume_bit_for_bit(data: Path, tmp_path: Path) -> None:
    """Of three numbers a sum depends on their order, and that on where they lie in a message."""
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    (whole,) = train_in_processes(3, path, (f"run={tmp_path}/whole",))
    train_in_processes(3, path, ("trainer.max_steps=14",), resumed=((),))
    last = f"checkpoints/step-{whole['steps']}"
    assert_same_checkpoint(tmp_path / "run" / last, tmp_path / "whole" / last)


def test_two_ranks_resume_bit_for_bit_and_another_number_nearly(data: Path, tmp_path: Path) -> None:
    """Stopped after a checkpoint and taken up by as many, and by more ranks."""
    trainer = SETTINGS["trainer"] | {"matmul_precision": "highest", "epochs": 2}
    settings = {"trainer": trainer, "model": {"mlp": {"hidden": [16, 8]}}}
    settings["tables"] = {"user": SETTINGS["tables"]["user"]}
    path = run_file(tmp_path / "run.yaml", data, **settings)
    expected, _ = train_in_processes(2, path, (f"run={tmp_path}/whole",), ("trainer.max_steps=14",))
    shutil.copytree(tmp_path / "run", tmp_path / "three")
    (resumed,) = train_in_processes(2, path, resumed=((),))
    assert resumed["first_step"] == 14
    assert resumed["losses"] == expected["losses"][14:]
    assert resumed["batches"] == expected["batches"][14:]
    last = f"checkpoints/step-{expected['steps']}"
    assert_same_checkpoint(tmp_path / "run" / last, tmp_path / "whole" / last)

    elsewhere = (f"run={tmp_path}/three", "tables.*={placement: row_wise}")
    (moved,) = train_in_processes(3, path, resumed=(elsewhere,))
    assert moved["batches"] == expected["batches"][14:]
    assert moved["losses"] == pytest.approx(expected["losses"][14:], abs=1e-4)


def restoring_worker(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """Restores the newest checkpoint, whole or not; returns what is refused, and whether this rank has the table."""
    session = Session.build(Blueprint(config), environment)
    line = ""
    try:
        restore(folder.checkpoint(folder.steps()[-1]), session)
    except UserError as error:
        line = str(error)
    return {"line": line, "has": bool(session.distributed.tables["item"].shards)}


def restored_by_rank(rank: int, path: Path) -> dict[str, Any]:
    config = load(path, ("tables.item={placement: table_wise}",))
    return launch(restoring_worker, config, RunFolder(Path(config.run)))


def test_damage_that_one_rank_finds_stops_all_by_its_line(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 1, "evaluation": {"every_epochs": None}})
    train(path)
    file = next((tmp_path / "run/checkpoints/step-1/tables").glob("item.*"))
    file.write_bytes(file.read_bytes()[:-1])
    one, other = run_processes(2, restored_by_rank, path)
    assert one["has"] != other["has"]
    assert one["line"] == other["line"] and f"{file}: cut short" in one["line"]


def test_a_changed_checkpoint_changes_the_result(data: Path, tmp_path: Path, unbroken: tuple) -> None:
    """What is resumed is the checkpoint's tensors, not something made anew."""
    expected, result = unbroken
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    train(path, ("trainer.max_steps=14",))
    folder = RunFolder.open(tmp_path / "run")
    file = folder.checkpoint(14) / TOWER_FILE
    tensors = load_file(str(file))
    tensors["tower/model.mlp.layers.0.weight"] += 1e-3
    save_file(tensors, str(file))
    content = read_manifest(folder.checkpoint(14))
    content["tower"] = file_entry(file.read_bytes())
    write_manifest(folder.checkpoint(14) / "manifest.json", content)
    resumed = train(path, resume=True)
    assert resumed["losses"] != result["losses"][14:]
    with pytest.raises(AssertionError):
        assert_same_checkpoint(folder.checkpoint(result["steps"]), expected.checkpoint(result["steps"]))


def test_evaluating_leaves_training_alone(data: Path, tmp_path: Path, unbroken: tuple) -> None:
    _, result = unbroken
    never = {"evaluation": {"every_epochs": None}, "progressive_validation": False}
    path = run_file(tmp_path / "run.yaml", data, **(SETTINGS | {"trainer": SETTINGS["trainer"] | never}))
    assert train(path)["losses"] == result["losses"]


def test_a_damaged_manifest_is_named(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2})
    train(path)
    manifest = tmp_path / "run/checkpoints/step-2/manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 2', '"step": 1'))
    with pytest.raises(UserError, match=r"manifest.json: damaged .* delete .*step-2"):
        train(path, resume=True)


@pytest.mark.parametrize("where", ["content", "position"])
def test_a_checkpoint_of_a_later_version_is_not_taken_for_a_damaged_one(data: Path, tmp_path: Path, where: str) -> None:
    """Which would be set aside, to go on from one before."""
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2, "checkpoint": {"every_steps": 1}})
    train(path)
    folder = RunFolder.open(tmp_path / "run")
    content = read_manifest(folder.checkpoint(2))
    if where == "content":
        content["format"] = 2
    else:
        content["position"]["of_tomorrow"] = 1
    write_manifest(folder.checkpoint(2) / "manifest.json", content)
    steps = folder.steps()
    with pytest.raises(UserError, match=r"step-2/manifest.json: .*go on with the version that wrote it"):
        train(path, ("trainer.max_steps=4",), resume=True)
    assert folder.steps() == steps


def test_other_data_are_refused_on_resume(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2})
    train(path)
    other = write_data(tmp_path / "other", rows=1000)
    with pytest.raises(UserError, match="not those of the checkpoint"):
        train(path, (f"data.path={other}", "trainer.max_steps=4"), resume=True)
    with pytest.raises(UserError, match=r"data.lanes is 8, but the checkpoint was made with 4"):
        train(path, ("data.lanes=8", "trainer.max_steps=4"), resume=True)


@pytest.mark.long
def test_a_worker_of_ray_that_is_killed_is_replaced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after another command on the run folder has failed, whose error is not the training's; and in a folder with
    files called as our layers are, where the user's own model imports one of them.
    """
    write_names_of_layers(tmp_path)
    (tmp_path / "models/taste.py").write_text("DIM = 3\n")
    (tmp_path / "own.py").write_text(OWN_MODEL)
    settings = SETTINGS["trainer"] | {"evaluation": {"every_epochs": 3}}
    path = run_file(tmp_path / "run.yaml", data, model="own:Own", trainer=settings, launch={"workers": 2})
    process = start(path)
    while last_step(tmp_path / "run") < EVERY + 1 and process.poll() is None:
        time.sleep(0.05)
    workers = ray_train_workers(process.pid)
    assert len(workers) == 2
    for worker in workers:
        worker.suspend()  # else they may end meanwhile
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own", "models", "models.taste"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match="user"):  # in its worker, beside the training
        evaluate_run(tmp_path / "run", (str(unknown_users(tmp_path)),), None, ("launch.workers=1",), quiet=True)
    workers[0].kill()
    workers[1].resume()
    assert process.wait() == 0
    folder = RunFolder.open(tmp_path / "run")
    starts = [r for r in folder.records() if r["kind"] == "start"]
    assert starts[-1]["resumed"] and starts[-1]["step"] > 0
    assert json.loads(folder.summary_file.read_text())["rows"] == 3 * 2401


def unknown_users(folder: Path) -> Path:
    """Rows with a user that the schema does not have."""
    rows = table(50, seed=1)
    rows = rows.set_column(0, "user", pa.array([999] * 50))
    pq.write_table(rows, folder / "unknown.parquet")
    return folder / "unknown.parquet"


def ray_train_workers(launcher: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(launcher).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "RayTrainWorker" in title:
            found.append(process)
    return found


def test_yesterdays_model_on_todays_data(data: Path, tmp_path: Path) -> None:
    """`init_from` takes tables with their state, and the tower; tables may have grown."""
    train(run_file(tmp_path / "yesterday.yaml", data, trainer={"max_steps": 5}))
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    schema["features"][0]["ids"]["num_ids"] += 50
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    today = run_file(
        tmp_path / "today.yaml", data, data={"schema": str(tmp_path / "schema.yaml")},
        trainer={"max_steps": 1}, init_from=str(tmp_path / "yesterday"),
        optimizer={"tables": {"learning_rate": 1e-30, "name": "adagrad"}, "tower": {"learning_rate": 1e-30}},
    )  # fmt: skip
    train(today)
    before = whole_tables(tmp_path / "yesterday/checkpoints/step-5")
    after = whole_tables(tmp_path / "today/checkpoints/step-1")
    assert len(after["user"]["weight"]) == len(before["user"]["weight"]) + 50
    for name, tensors in before.items():
        rows = len(tensors["weight"])
        assert torch.allclose(after[name]["weight"][:rows], tensors["weight"], atol=1e-7)
        assert (after[name]["accumulator"][:rows] >= tensors["accumulator"]).all()
        assert tensors["accumulator"].sum() > 0
    assert torch.allclose(
        tower(tmp_path / "today/checkpoints/step-1")["tower/model.mlp.layers.0.weight"],
        tower(tmp_path / "yesterday/checkpoints/step-5")["tower/model.mlp.layers.0.weight"],
    )
