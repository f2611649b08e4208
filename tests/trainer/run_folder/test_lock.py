"""A run folder is one process's at a time, whatever became of the one that had it before."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.run_folder import lock
from shardrec.trainer.run_folder.lock import LOCK, check_free, check_owned, locked, was_begun
from shardrec.trainer.run_folder.owner import Owner
from tests import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from shardrec.trainer.run_folder.lock import locked
with locked(Path(sys.argv[1]), "train-there"):
    print("mine", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen]:
    """A process that has the lock of a folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def elsewhere(folder: Path, command: str = "train-elsewhere") -> Path:
    """The lock of a process on another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.loads(Owner.this_process(command).dump()) | {"host": "far", "place": "another boot", "pid": 7}
    (folder / LOCK).write_text(json.dumps(facts))
    return folder / LOCK


def test_a_living_owner_is_named_and_a_dead_one_makes_room(tmp_path: Path) -> None:
    folder = tmp_path / "deep/run"
    with another_process(folder) as process:
        for attempt in (lambda: check_free(folder), lambda: locked(folder, "train-here").__enter__()):
            with pytest.raises(
                UserError, match=rf"run: in use by `train` \(process {process.pid} on .*, since 20"
            ) as e:
                attempt()
            assert str(folder / LOCK) in str(e.value)
    assert (folder / LOCK).exists()  # it was killed
    check_free(folder)
    with locked(folder, "train-here"):
        (folder / "note").touch()
        with pytest.raises(UserError, match="in use"), locked(folder, "train-here-too"):
            pass
        assert json.loads((folder / LOCK).read_text())["command"] == "train-here"
    assert [p.name for p in folder.iterdir()] == ["note"]


def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    facts = json.loads(Owner.this_process("train-before").dump()) | {"started": "1"}
    (tmp_path / LOCK).write_text(json.dumps(facts))
    with locked(tmp_path, "train-now"):
        pass


def test_an_owner_on_another_machine_lives_as_long_as_its_time_stamp_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = elsewhere(tmp_path / "run")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            os.utime(file)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(UserError, match=r"in use by `train` .process 7 on far"), locked(file.parent, "train-here"):
            pass
    finally:
        over.set()
        beating.join()
    assert "waiting up to 60 s" in capsys.readouterr().err
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1.0)
    with locked(file.parent, "train-here"):
        assert "far" not in file.read_text()


def test_a_later_try_of_the_same_launch_does_not_wait(tmp_path: Path) -> None:
    """As when torchrun starts its ranks anew, on another machine."""
    elsewhere(tmp_path, "train-torchrun-abc")
    began = time.monotonic()
    with locked(tmp_path, "train-torchrun-abc"):
        assert time.monotonic() - began < lock.SILENCE_SECONDS / 2


def test_who_was_taken_over_is_told(tmp_path: Path) -> None:
    with locked(tmp_path, "train-mine"):
        check_owned(tmp_path, "train-mine")
        elsewhere(tmp_path, "train-theirs")
        with pytest.raises(UserError, match=r"taken over by `train` .process 7 on far"):
            check_owned(tmp_path, "train-mine")
    assert (tmp_path / LOCK).exists()  # theirs stays
    with locked(tmp_path / "short", "train-mine"):
        (tmp_path / "short" / LOCK).unlink()  # as of one that has trained to its end meanwhile
        with pytest.raises(UserError, match="gone: another training took the folder over, or it was removed"):
            check_owned(tmp_path / "short", "train-mine")


def test_of_many_that_find_a_dead_owner_one_gets_the_folder(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps(json.loads(Owner.this_process("train-x").dump()) | {"started": "1"}))
    won, lost, ready = [], [], threading.Barrier(8)

    def attempt(number: int) -> None:
        ready.wait()
        try:
            with locked(tmp_path, f"train-{number}"):
                won.append(number)
                ready.wait()
        except UserError:
            lost.append(number)
            ready.wait()

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}/{LOCK}*"))


def test_what_a_training_killed_at_once_leaves_is_known(tmp_path: Path) -> None:
    with another_process(tmp_path / "killed"):
        pass
    assert was_begun(tmp_path / "killed")
    (tmp_path / "killed/schema.yaml").touch()
    assert was_begun(tmp_path / "killed")
    for name in ("run/logs", "run/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    assert was_begun(tmp_path / "run")
    (tmp_path / "run/checkpoints/mine.txt").touch()
    assert not was_begun(tmp_path / "run")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / LOCK).write_text("somebody else's")
    (tmp_path / "foreign/yarn.js").touch()
    assert not was_begun(tmp_path / "foreign")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_lock_and_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / LOCK)
    with pytest.raises(UserError, match="no lock of a training"), locked(tmp_path, "train"):
        pass
