"""A run in an object store is that of a folder, bit for bit: whatever the store does, wherever it goes on."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardrec.data_pipeline.stores.location import StorePath
from shardrec.data_pipeline.stores.mirrors import VARIABLE
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.checkpoints.difference import compare_checkpoints
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder import synced
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.resuming import resumes
from shardrec.trainer.training.train_run import train_run
from tests.object_store import BUCKET, Fault, ObjectStore
from tests.processes import forkserver, run_processes
from tests.trainer.small_run import run_file, write_data
from tests.trainer.stage_files import fm_then_fnn
from tests.trainer.started import command

SETTINGS: dict[str, Any] = {
    "trainer": {"epochs": 1, "checkpoint": {"every_steps": 3, "keep": 2}, "evaluation": {"every_steps": 4}},
    "tables": {"user": {"dynamic": {"rows": 120, "after": 2}}},
}
VOLATILE = ("time", "samples_per_second", "recent_samples_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("in-store") / "data", rows=2000)


@pytest.fixture(scope="module")
def on_disk(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = load(run_file(tmp_path_factory.mktemp("on-disk") / "run.yaml", data, **SETTINGS))
    train_run(config, quiet=True, embedded=True)
    return RunFolder.open(config.run)


@pytest.fixture(scope="module")
def on_two_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = run_file(tmp_path_factory.mktemp("on-two-ranks") / "run.yaml", data, **SETTINGS)
    run_processes(2, _train_rank, path, {}, "")
    return RunFolder.open(load(path).run)


@pytest.fixture
def path(data: Path, tmp_path: Path, store: ObjectStore) -> Path:
    return run_file(tmp_path / "run.yaml", data, run=f"s3://{BUCKET}/{tmp_path.name}/run", **SETTINGS)


@pytest.fixture
def in_store(data: Path, store: ObjectStore, tmp_path: Path) -> str:
    """The data set's URI."""
    for file in data.rglob("*.*"):
        store.write(f"{tmp_path.name}/data/{file.relative_to(data).as_posix()}", file.read_bytes())
    return f"s3://{BUCKET}/{tmp_path.name}/data"


def train(path: Path, *overrides: str, resume: bool = False) -> RunFolder:
    config = load(path, overrides)
    train_run(config, resume=resume, quiet=True, embedded=True)
    return RunFolder.open(config.run)


def records(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in VOLATILE} for r in folder.records() if r["kind"] != "start"]


def assert_same(folder: RunFolder, other: RunFolder) -> None:
    assert folder.steps() == other.steps() and folder.best_step() == other.best_step()
    for step in folder.steps():
        assert not compare_checkpoints(folder.checkpoint(step), other.checkpoint(step)).differences
    assert records(folder) == records(other)


def on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced._seen.clear()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "another machine"))


def test_is_that_of_a_folder_and_all_in_the_store(
    path: Path, on_disk: RunFolder, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(path)
    on_another_machine(tmp_path, monkeypatch)
    folder = RunFolder.open(load(path).run)
    assert_same(folder, on_disk)
    assert folder.config().run == load(path).run and folder.summary() is not None
    of_disk = {p.relative_to(on_disk.path).as_posix() for p in on_disk.path.rglob("*") if p.is_file()}
    assert {n for n in store.names(f"{tmp_path.name}/run") if not n.startswith("logs/")} == of_disk


def test_no_fault_of_the_store_changes_a_run(path: Path, in_store: str, on_disk: RunFolder, store: ObjectStore) -> None:
    """Rows come from it, too; each kind of request fails now and then."""
    faults = [
        Fault("GET .*parquet", "cut", times=3, spared=5),
        Fault("(GET|HEAD) .*parquet", "500", times=3, spared=10),
        Fault("PUT .*tables", "500", times=3),
        Fault("PUT .*id_maps", "closed", times=2),
        Fault("PUT .*manifest", "500", times=2),
        Fault("GET .*safetensors", "cut", times=2),
        Fault("HEAD .*manifest", "closed", times=2),
        Fault("GET .*list-type", "500", times=3),
        Fault("DELETE", "500", times=2),
        Fault("PUT .*metrics", "closed", times=2),
        Fault("lock", "500", times=3),
    ]
    with store.failing(*faults):
        folder = train(path, f"data.path={in_store}")
    assert all(fault.befallen for fault in faults)
    assert_same(folder, on_disk)


def test_checkpoints_may_be_sent_while_training_goes_on(path: Path, on_disk: RunFolder, store: ObjectStore) -> None:
    """A thread that fails now and then tries again, and one that fails for good ends the run in its line."""
    background = "trainer.checkpoint.background=true"
    faults = [Fault("PUT .*tables", "500", times=3), Fault("PUT .*id_maps", "closed", times=2)]
    with store.failing(*faults, Fault("PUT .*step-6/tables/item", "403")), pytest.raises(StoreError) as ended:
        train(path, background)
    assert all(fault.befallen for fault in faults)
    assert "/step-6/tables/item.r0.c0.safetensors: written: " in str(ended.value)
    assert RunFolder.open(load(path).run).steps() == [3, 4]
    assert_same(train(path, background, resume=True), on_disk)


@pytest.mark.parametrize(("kind", "line"), [("500", "failed 6 times"), ("403", "refused (")])
def test_a_store_that_is_away_ends_a_run_in_one_line_and_it_goes_on_elsewhere(
    kind: Any,
    line: str,
    path: Path,
    on_disk: RunFolder,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with store.failing(Fault("PUT .*step-6/tables/item", kind)), pytest.raises(StoreError) as ended:
        train(path)
    assert "/step-6/tables/item.r0.c0.safetensors: written: " in str(ended.value) and line in str(ended.value)
    folder = RunFolder.open(load(path).run)
    assert folder.steps() == [3, 4]  # the best, and the last
    left = store.names(f"{tmp_path.name}/run/checkpoints")
    assert any(name.startswith("step-6/") for name in left)
    (StorePath.parse(load(path).run) / "checkpoints/step-6/of-an-earlier-try").write_text("x")
    assert store.names(f"{tmp_path.name}/run") and "metrics.jsonl" in store.names(f"{tmp_path.name}/run")
    on_another_machine(tmp_path, monkeypatch)
    assert_same(train(path, resume=True), on_disk)
    assert not any("of-an-earlier-try" in name for name in store.names(f"{tmp_path.name}/run"))


def _command(variables: dict[str, str], log: Path, words: list[str]) -> None:
    os.environ.update(variables)
    command(log, words)


def test_killed_on_one_machine_it_goes_on_on_another(
    path: Path, on_disk: RunFolder, store: ObjectStore, tmp_path: Path
) -> None:
    words = ["train", str(path), "--quiet"]
    process = forkserver().Process(target=_command, args=(store.as_seen(tmp_path / "other"), tmp_path / "log", words))
    process.start()
    manifest, until = StorePath.parse(load(path).run) / "checkpoints/step-3/manifest.json", time.monotonic() + 60
    while not manifest.exists():
        assert process.is_alive() and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    folder = train(path, resume=True)
    assert [r["resumed"] for r in folder.records() if r["kind"] == "start"] == [False, True]
    assert_same(folder, on_disk)
    assert not [name for name in store.names(f"{tmp_path.name}/run") if "lock" in name]


def _train_rank(
    rank: int, path: Path, variables: dict[str, str], mirrors: str, resume: bool = False
) -> dict[str, Any] | None:
    os.environ.update(variables | ({VARIABLE: f"{mirrors}-{rank}", "GROUP_RANK": str(rank)} if mirrors else {}))
    return train_run(load(path), resume=resume, quiet=True, embedded=True)


@pytest.mark.long
def test_two_machines_train_as_one(path: Path, on_two_ranks: RunFolder, store: ObjectStore, tmp_path: Path) -> None:
    """They share nothing but the store, and both leave a finished run, of whose end one has seen nothing."""
    summary, other = run_processes(2, _train_rank, path, store.variables, str(tmp_path / "machine"))
    assert summary["world_size"] == 2 and other is None
    assert_same(RunFolder.open(load(path).run), on_two_ranks)
    assert not [*(tmp_path / "machine-1").rglob("summary.json")]
    again, other = run_processes(2, _train_rank, path, store.variables, str(tmp_path / "machine"), True)
    assert again["wall_seconds"] == summary["wall_seconds"] and other is None


@pytest.mark.long
def test_ray_workers_read_from_and_write_to_a_store(path: Path, in_store: str, on_two_ranks: RunFolder) -> None:
    """As two processes do with a folder; each writes its own share."""
    folder = train(path, f"data.path={in_store}", "launch.workers=2")
    assert_same(folder, on_two_ranks)
    manifest = json.loads((folder.checkpoint(folder.steps()[-1]) / "manifest.json").read_bytes())["content"]
    assert len({entry["row"] for entry in manifest["id_maps"]["user"]["files"]}) > 1


def _train_on(machine: str, path: Path, variables: dict[str, str], *, resume: bool) -> dict[str, Any] | None:
    os.environ.update(variables | {VARIABLE: machine})
    config = load(path)
    if leads():
        resumes(config, resume)
    return train_run(config, resume=resume, quiet=True, embedded=True)


@pytest.mark.long
def test_ranks_of_one_machine_train_the_stages_that_are_left_though_another_one_made_the_first(
    data: Path, store: ObjectStore, tmp_path: Path
) -> None:
    """Both look at the same files of their machine, which rank 0 fetches first."""
    path = fm_then_fnn(tmp_path, data)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"run": f"s3://{BUCKET}/{tmp_path.name}/run"}))
    before = _train_on(str(tmp_path / "one"), path, store.variables, resume=False)
    assert before is not None
    work = partial(_rank_on, str(tmp_path / "other"), path, store.variables)
    again, other = run_processes(2, work)
    assert again is not None and other is None
    assert again["stages"]["fm"] == before["stages"]["fm"]


def _rank_on(machine: str, path: Path, variables: dict[str, str], rank: int) -> dict[str, Any] | None:
    return _train_on(machine, path, variables, resume=True)
