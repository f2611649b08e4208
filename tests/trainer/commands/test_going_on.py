"""`shardrec train --resume`: what it goes on from, where the folder is now, and what it refuses."""

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

import shardrec as shardrec_package
from shardrec.trainer.checkpoints.removal import prune
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.lock import LOCK, locked
from shardrec.trainer.training.taking_up import taken_up
from tests import ROOT
from tests.processes import forkserver
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import assert_same_checkpoint
from tests.trainer.small_run import run_file, write_data

SETTINGS: dict[str, Any] = {
    "trainer": {
        "epochs": 9,
        "max_steps": 4,
        "checkpoint": {"every_steps": 2, "every_epochs": None, "keep": 9},
        "evaluation": {"every_epochs": None},
    }
}
CHAIN = {"stages": [{"name": "first"}, {"name": "second", "init_from": [{"stage": "first", "tables": {"*": {}}}]}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("going_on") / "data", rows=600)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    """A run file, and its run folder trained to step 4."""
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    command(path)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder trained to step 6 without a stop."""
    path = run_file(tmp_path_factory.mktemp("trained") / "run.yaml", data, **SETTINGS)
    command(path, "--set", "trainer.max_steps=6")
    return path.with_suffix("")


def command(path: Path, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shardrec(patch, "train", path, "--quiet", *flags)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


MORE = ("--set", "trainer.max_steps=6")


def test_nothing_is_begun_by_resume_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    for file in (path, run_file(tmp_path / "chain.yaml", data, **SETTINGS, **CHAIN)):
        line = refused(monkeypatch, "train", file, "--resume")
        assert f"{file.with_suffix('')}: holds no run to go on with; leave --resume out" in line
        assert not file.with_suffix("").exists()
    assert "no run to go on with" in refused(monkeypatch, "train", path, "--step", "2")
    shardrec(monkeypatch, "train", "--resume", "auto", path, "--quiet")
    assert f"{tmp_path / 'run'}: starts a new run" in capsys.readouterr().err
    shardrec(monkeypatch, "train", "--resume", path, "--quiet", *MORE)
    assert summary(tmp_path / "run")["first_step"] == 4
    shardrec(monkeypatch, "train", path, "--resume=auto", "--quiet", "--set", "trainer.max_steps=8")
    assert f"{tmp_path / 'run'}: goes on from step 6" in capsys.readouterr().err
    assert summary(tmp_path / "run")["first_step"] == 6


def test_the_run_file_in_a_run_folder_means_that_folder(run: Path, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere/mine"
    moved.parent.mkdir()
    run.with_suffix("").rename(moved)
    command(moved / "config.yaml", "--resume", *MORE)
    assert not run.with_suffix("").exists()
    assert summary(moved)["first_step"] == 4
    assert yaml.safe_load((moved / "config.yaml").read_text())["run"] == str(moved)
    assert_same_checkpoint(moved / "checkpoints/step-6", trained / "checkpoints/step-6")
    command(moved / "config.yaml", "--set", f"run={tmp_path}/new", "--set", "trainer.max_steps=1")
    assert summary(tmp_path / "new")["first_step"] == 0


def test_a_moved_chain_goes_on_as_a_whole_and_by_its_stages(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS, **CHAIN)
    command(path)
    first = (tmp_path / "run/first/summary.json").read_bytes()
    (tmp_path / "run").rename(tmp_path / "moved")
    command(tmp_path / "moved/stages.yaml", "--resume", "--set", "stages.second.trainer.max_steps=6")
    assert summary(tmp_path / "moved/second")["first_step"] == 4
    command(tmp_path / "moved/second/config.yaml", "--resume", "--set", "trainer.max_steps=8")
    assert summary(tmp_path / "moved/second")["first_step"] == 6
    assert (tmp_path / "moved/first/summary.json").read_bytes() == first
    assert not (tmp_path / "run").exists()


def test_a_run_file_beside_a_run_is_not_its_own(data: Path, tmp_path: Path) -> None:
    """A project's file of that name says itself where its runs are."""
    path = run_file(tmp_path / "config.yaml", data, run=str(tmp_path / "runs/a"))
    shutil.copy(data / "schema.yaml", tmp_path)
    assert load(path).run == str(tmp_path / "runs/a")


def test_a_finished_run_is_left_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.with_suffix("")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command(run, "--resume")
    printed = capsys.readouterr()
    assert f"{folder}: finished at step 4 and left as it is" in printed.err
    assert "4 steps, " in printed.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_newest_checkpoint_is_passed_over(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.with_suffix("") / "checkpoints"
    file = next((folder / "step-4/tables").glob("item.*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    command(run, "--resume", *MORE)
    line = next(line for line in capsys.readouterr().err.splitlines() if "set-aside" in line)
    assert str(file) in line and "step-4 is now step-4.set-aside, and the run goes on from step 2" in line
    assert summary(run.with_suffix(""))["first_step"] == 2
    assert (folder / "step-4.set-aside/tables" / file.name).read_bytes() == content
    for step in (4, 6):
        assert_same_checkpoint(folder / f"step-{step}", trained / f"checkpoints/step-{step}")
    for step in (2, 4, 6):
        (folder / f"step-{step}/manifest.json").write_text("{")
    line = refused(monkeypatch, "train", run, "--quiet", "--resume", "--set", "trainer.max_steps=8")
    assert "step-6/manifest.json: damaged" in line and line.endswith("no earlier checkpoint is whole")
    assert {p.name for p in folder.glob("step-*")} == {"step-2", "step-4", "step-6", "step-4.set-aside"}


def test_another_run_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that do not fit are an error: the run does not go back to where they might."""
    other = ("--set", "optimizer.tower.name=sgd", "--quiet")
    assert "a checkpoint of another optimizer.tower?" in refused(monkeypatch, "train", run, "--resume", *MORE, *other)
    assert RunFolder.open(run.with_suffix("")).steps() == [2, 4]


def test_a_step_is_chosen_to_go_on_from(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.with_suffix("") / "checkpoints"
    assert "no complete checkpoint of step 3; there is: 2, 4" in refused(
        monkeypatch, "train", run, "--resume", "--step", "3"
    )
    other = ("--set", "data.lanes=8", "--quiet")
    assert "data.lanes is 8" in refused(monkeypatch, "train", run, "--resume", "--step", "2", *other)
    assert {p.name for p in folder.glob("step-*")} == {"step-2", "step-4"}  # put back
    command(run, "--resume", "--step", "2", *MORE)
    assert "goes on from step 2; step-4 is now step-4.set-aside" in capsys.readouterr().err
    assert summary(run.with_suffix(""))["first_step"] == 2
    assert (folder / "step-4.set-aside/manifest.json").exists()
    assert_same_checkpoint(folder / "step-6", trained / "checkpoints/step-6")


def test_a_step_without_a_manifest_is_no_obstacle(run: Path, trained: Path) -> None:
    folder = run.with_suffix("") / "checkpoints"
    shutil.copytree(folder / "step-4", folder / "step-6", ignore=shutil.ignore_patterns("manifest.json"))
    command(run, "--resume", *MORE)
    assert (folder / "step-6.set-aside/tower.safetensors").exists()
    assert_same_checkpoint(folder / "step-6", trained / "checkpoints/step-6")


def test_a_start_that_was_killed_is_taken_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    killed = f"""
import os, sys
from pathlib import Path
from shardrec.trainer.run_folder.lock import locked
with locked(Path({str(tmp_path / "run")!r}), "train-killed"):
    Path({str(tmp_path / "run/schema.yaml")!r}).touch()
    os._exit(9)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", killed], env=environment).returncode == 9
    assert (tmp_path / "run" / LOCK).exists()
    assert "leave --resume out to start one" in refused(monkeypatch, "train", path, "--resume")
    command(path)
    assert summary(tmp_path / "run")["steps"] == 4


def test_two_trainings_do_not_share_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.with_suffix("")
    with locked(folder, "train-there"):
        for flags in ((), ("--resume", *MORE), ("--resume", "auto", *MORE)):
            line = refused(monkeypatch, "train", run, *flags)
            assert f"{folder}: in use by `train` (process {os.getpid()} on " in line
        shardrec(monkeypatch, "evaluate", folder, "--quiet")
        shardrec(monkeypatch, "checkpoint", "show", folder)
    assert not (folder / LOCK).exists()


@pytest.mark.parametrize("opened", [SavedModel.open, shardrec_package.open])
def test_what_is_open_is_not_pruned(run: Path, opened: Callable[[Path, int], Any]) -> None:
    folder = RunFolder.open(run.with_suffix(""))
    for at in (folder.path, folder.checkpoint(2)) if opened == SavedModel.open else (folder.path,):
        reader = [opened(at, 2 if at == folder.path else None)]
        prune(folder, 1, None)
        assert folder.steps() == [2, 4]
        reader.clear()
    prune(folder, 1, None)
    assert folder.steps() == [4]


def test_one_command_alone_trains_a_stage_of_a_chain(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS, **CHAIN)
    command(path)
    with locked(tmp_path / "run/second", "train-there"):
        more = ("--set", "stages.second.trainer.max_steps=6", "--quiet")
        assert "run/second: in use by" in refused(monkeypatch, "train", path, "--resume", *more)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_run_that_is_stopped_before_its_first_checkpoint_leaves_no_folder(
    data: Path, tmp_path: Path, error: BaseException
) -> None:
    config = load(run_file(tmp_path / "run.yaml", data, **SETTINGS))
    with pytest.raises(type(error)), locked(Path(config.run), "train-a"), taken_up(config, "train-a", resume=False):
        assert RunFolder.open(config.run).steps() == []
        raise error
    assert not Path(config.run).exists()


def test_what_is_written_may_be_read_by_whom_its_neighbours_may(run: Path) -> None:
    """The files of one checkpoint, and all that lies in a run folder, go by the umask."""
    umask = os.umask(0)
    os.umask(umask)
    files = [path for path in run.with_suffix("").rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o666 & ~umask for path in files}


# ---------------------------------------------------------------- file systems


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Calls a function in a process of its own, whose mounts and limits nobody else has; returns its result."""
    context = forkserver()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_apart, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        done, value = here.recv()
    finally:
        process.join()
    assert done, value
    return value


def _apart(there: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        there.send((True, function(*arguments)))
    except BaseException:
        there.send((False, traceback.format_exc()))
    finally:
        os._exit(0)


def mount(*lines: str) -> None:
    """Runs mount commands for this process alone."""
    new_mounts = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts):
        raise OSError(ctypes.get_errno(), "unshare")
    for line in ("mount --make-rprivate /", *lines):
        subprocess.run(line, shell=True, check=True)


can_mount = pytest.mark.skipif(
    subprocess.run("unshare -m mount -t tmpfs none /mnt", shell=True, capture_output=True).returncode != 0,
    reason="may not mount file systems here",
)


@can_mount
def test_reading_commands_need_not_write_to_the_run_folder(run: Path, data: Path, tmp_path: Path) -> None:
    folder = run.with_suffix("")
    line = apart(_read, run, folder, data, tmp_path)
    assert list((tmp_path / "scores").iterdir()) and list((tmp_path / "items").iterdir())
    assert not list(folder.glob("checkpoints/.*"))
    assert f"error: {folder}: cannot be written to: Read-only file system; name another `run`" in line


def _read(run: Path, folder: Path, data: Path, out: Path) -> str:
    mount(f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}")
    with pytest.MonkeyPatch.context() as patch:
        shardrec(patch, "evaluate", folder, "--quiet")
        shardrec(patch, "predict", folder, "--data", data / "test", "--out", out / "scores", "--quiet")
        shardrec(patch, "tables", folder)
        shardrec(patch, "checkpoint", "show", folder)
        shardrec(patch, "checkpoint", "export", folder, "--table", "item", "--out", out / "items")
        return refused(patch, "train", run, "--resume", "--quiet", *MORE)


@can_mount
def test_a_full_disk_is_one_line_that_names_the_file(run: Path, tmp_path: Path) -> None:
    """Whatever it was that did not fit: what a run begins with, or later files."""
    sizes = (0, 8, 24, 48, 96)
    for kilobytes, (line, left) in zip(sizes, apart(_fill, run, tmp_path, sizes), strict=True):
        assert "No space left on device" in line and f"disk{kilobytes}/run" in line
        assert not left or "checkpoint step-" in line


def _fill(run: Path, where: Path, sizes: tuple[int, ...]) -> list[tuple[str, bool]]:
    lines = []
    for kilobytes in sizes:
        disk = where / f"disk{kilobytes}"
        disk.mkdir()
        mount(f"mount -t tmpfs -o size={kilobytes or 4}k none {disk}")
        if not kilobytes:
            (disk / "full").write_bytes(bytes(4096))
        with pytest.MonkeyPatch.context() as patch:
            lines.append((refused(patch, "train", run, "--quiet", "--set", f"run={disk}/run"), (disk / "run").exists()))
    return lines


@pytest.mark.parametrize(("hidden", "file"), [([], "tables/user.r0.c0.safetensors"), ([80, 80], "tower.safetensors")])
def test_a_file_that_does_not_fit_leaves_the_checkpoint_before_good(
    data: Path, tmp_path: Path, hidden: list[int], file: str
) -> None:
    model = {"embedding_dim": 8, "mlp": {"hidden": hidden}}
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS, model=model)
    command(path)
    size = (tmp_path / "run/checkpoints/step-4" / file).stat().st_size
    line = apart(_limited, path, size - 1)
    assert (
        f"checkpoints/.step-6.tmp/{file}: File too large; make room, then go on with --resume: checkpoint step-4"
        in line
    )
    command(path, "--resume", *MORE)
    assert RunFolder.open(tmp_path / "run").steps() == [2, 4, 6]


def _limited(path: Path, largest_file: int) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    with pytest.MonkeyPatch.context() as patch:
        return refused(patch, "train", path, "--resume", "--quiet", *MORE)


def test_scores_that_find_no_room_are_a_line_and_leave_nothing(data: Path, tmp_path: Path) -> None:
    """A worker says so itself: what a launcher would not know it would try again."""
    path = run_file(tmp_path / "run.yaml", data, **SETTINGS)
    command(path)
    line = apart(_predict_limited, tmp_path / "run", data / "train", tmp_path / "scores")
    assert (
        "/part-00000.parquet: no space left on the device; nothing was kept; make room, or name another --out" in line
    )
    assert not list(tmp_path.glob("*scores*"))


def _predict_limited(run: Path, rows: Path, out: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.MonkeyPatch.context() as patch:
        return refused(patch, "predict", run, "--data", rows, "--out", out, "--quiet")
