"""Files and folders appear complete or not at all: after errors, kills, full disks, and beside other writers."""

import errno
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files import whole_files
from shardrec.data_pipeline.files.owned_files import MARKER
from shardrec.data_pipeline.files.processes import here
from shardrec.data_pipeline.files.whole_files import whole_file, whole_folder

NOBODY = 2**22 + 1  # no process has that number


def must_be_new(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: taken")


def anything(out: Path) -> None:
    """Any `out` may be replaced."""


def stop_inside(opening: str, out: Path, how: signal.Signals) -> None:
    """Sends a signal to a process that has written half a file inside `opening`."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom shardrec.data_pipeline.files.whole_files import *\n"
        f"out = Path(sys.argv[1])\nwith {opening} as t:\n"
        "    (t / 'x' if t.is_dir() else t).write_text('ha'); print('in', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", script, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        process.send_signal(how)
        assert process.wait(20) != 0


def test_a_file_replaces_the_old_one_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for text in "12":
        with whole_file(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "1"
    assert path.read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [UserError("wrong"), KeyboardInterrupt(), OSError("gone")])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise error
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("old")
    with pytest.raises(type(error)), whole_folder(tmp_path / "folder", anything, listed=True) as folder:
        (folder / "mine").write_text("ne")
        raise error
    with pytest.raises(type(error)), whole_folder(tmp_path / "new", must_be_new):
        raise error
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "mine").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    stop_inside("whole_file(out)", tmp_path / "x", signal.SIGKILL)
    assert (tmp_path / "x").read_text() == "old"
    with whole_file(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["x"]


@pytest.mark.parametrize(("how", "left"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_a_killed_writer_leaves_no_folder_for_good(tmp_path: Path, how: signal.Signals, left: int) -> None:
    out = tmp_path / "out[1]"
    stop_inside("whole_folder(out, lambda _: None)", out, how)
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == left
    with whole_folder(out, must_be_new) as folder:  # the next one removes what the killed one could not
        (folder / "x").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["out[1]"]


def test_interrupts_that_come_from_its_making_on_leave_no_folder(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, threading, time\nfrom pathlib import Path\n"
        "from shardrec.data_pipeline.files.whole_files import *\n"
        "out = Path(sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where tests run in the background
        "def interrupt():\n"
        "    while not any(out.parent.iterdir()):\n        pass\n"
        "    while any(out.parent.iterdir()):\n        os.kill(os.getpid(), signal.SIGINT); time.sleep(1e-4)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "with whole_folder(out, lambda _: None) as folder:\n"
        "    [(folder / str(n)).touch() for n in range(10**5)]\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], env=environment, capture_output=True)
    assert b"KeyboardInterrupt" in ended.stderr and ended.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan[1].txt"
    stop_inside("whole_file(out)", path, signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    in_a_container = f"{socket.gethostname()}-1-{NOBODY}"  # whose processes cannot be seen from here
    writers = [f"{here()}-{os.getpid()}-0", f"{in_a_container}-0", "elsewhere-1-0", "mine"]
    kept = [f".{path.name}.{writer}.tmp" for writer in writers]
    for name in kept:
        (tmp_path / name).write_text("")
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, path.name])


def test_what_a_kill_between_two_renames_moved_away_is_put_back(tmp_path: Path) -> None:
    out, gone = tmp_path / "out", f".out.partial-{here()}-{NOBODY}-0"
    with whole_folder(out, must_be_new, listed=True) as folder:
        (folder / "old").write_text("")
    out.rename(tmp_path / f"{gone}-old")
    (tmp_path / gone).mkdir()
    (tmp_path / gone / "new").write_text("")  # not marked: anybody's
    with pytest.raises(KeyboardInterrupt), whole_folder(out, anything, listed=True):
        raise KeyboardInterrupt
    assert sorted(os.listdir(out)) == [MARKER, "old"]
    assert sorted(os.listdir(tmp_path)) == sorted(["out", gone])


def test_what_a_kill_just_before_the_rename_left_goes_by_its_list(tmp_path: Path) -> None:
    out, gone = tmp_path / "out", tmp_path / f".out.partial-{here()}-{NOBODY}-0"
    with whole_folder(out, must_be_new, listed=True) as folder:
        (folder / "new").write_text("")
    out.rename(gone)
    (gone / "mine").write_text("")  # came in since: not listed
    with whole_folder(out, must_be_new, listed=True) as folder:
        (folder / "newer").write_text("")
    assert sorted(os.listdir(out)) == [MARKER, "newer"]
    assert os.listdir(gone) == ["mine"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(20):
            with whole_file(tmp_path / "x", synced=False) as temporary:
                temporary.write_text(letter * 10_000)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, "abcd"))
    assert len(set((tmp_path / "x").read_text())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_first_of_two_writers_of_a_folder_wins(tmp_path: Path) -> None:
    out, late = tmp_path / "out", tmp_path / "late"
    with pytest.raises(UserError, match="taken"), whole_folder(out, must_be_new) as slow:
        (slow / "slow").write_text("")
        with whole_folder(out, must_be_new) as fast:
            (fast / "fast").write_text("")
    with pytest.raises(OSError, match="not empty"), whole_folder(late, anything) as slow:
        late.mkdir()
        (late / "theirs").write_text("")
    assert [p.name for p in out.iterdir()] == ["fast"]
    assert [p.name for p in late.iterdir()] == ["theirs"]


def test_ranks_of_a_launch_fill_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out, must_be_new, launch="7") as ours:
        with whole_folder(out, must_be_new, launch="7", leads=False) as same:
            (same / "theirs").write_text("")
        assert same == ours
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == ["theirs"]


def test_a_folder_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "out", must_be_new) as folder:
        (folder / "x").write_text("1")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "x").read_text() == "1"


def test_places_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below_a_file, cannot = tmp_path / "file" / "out", "cannot write there: Not a directory"
    with pytest.raises(UserError, match=cannot), whole_folder(below_a_file, anything):
        raise AssertionError("must not be entered")
    with pytest.raises(OSError, match="No such file") as missing, whole_file(tmp_path / "gone" / "x"):
        raise AssertionError("must not be entered")
    assert missing.value.filename == str(tmp_path / "gone" / "x")  # and not the name that it is made under
    full = "no space left on the device; nothing was kept"
    with pytest.raises(UserError, match=full), whole_folder(tmp_path / "out", anything):
        raise OSError(errno.ENOSPC, "full")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_all_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    out = tmp_path / "out"
    monkeypatch.setattr(whole_files, "sync", lambda path: synced.append((path.name, out.exists())))
    with whole_folder(out, must_be_new) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "x").write_text("1")
    assert sorted(synced) == sorted([("x", False), ("a", False), (folder.name, False), (tmp_path.name, True)])


def test_a_link_that_waits_under_a_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(whole_files, "_count", iter([7]))
    (tmp_path / f".x.{here()}-{os.getpid()}-7.tmp").symlink_to(tmp_path / "precious")
    with whole_file(tmp_path / "x") as temporary:
        temporary.write_text("new")
    (tmp_path / "folder").mkdir()
    (tmp_path / ".out.partial-launch").symlink_to(tmp_path / "folder")
    with (
        pytest.raises(UserError, match="a link, where this command is to write"),
        whole_folder(tmp_path / "out", must_be_new, launch="launch"),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "x").read_text() == "new"
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_empty_folder_keeps_its_permissions(tmp_path: Path) -> None:
    out = tmp_path / "private"
    out.mkdir(mode=0o700)
    with whole_folder(out, must_be_new) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700  # while it is filled, too
        (folder / "x").write_text("")
    assert out.stat().st_mode & 0o777 == 0o700
    assert out.stat().st_gid == tmp_path.stat().st_gid


def test_the_working_directory_is_not_replaced_though_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (Path("."), tmp_path / "here"):
        with (
            pytest.raises(UserError, match="the working directory; name a new folder in it"),
            whole_folder(out, anything),
        ):
            pass
    with pytest.raises(UserError, match="a disk's mount"), whole_folder(Path("/proc"), anything):
        pass
    with whole_folder(Path("new"), must_be_new) as folder:
        (folder / "x").write_text("")
    assert (tmp_path / "here" / "new" / "x").exists()
