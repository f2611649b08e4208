"""Commands on one run folder do not meet in its logs."""

import json
import os
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.run_folder import command_logs
from shardrec.trainer.run_folder.captured_output import captured_output
from shardrec.trainer.run_folder.command_logs import KEPT, command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import failure_left, leave_failure
from shardrec.trainer.run_folder.owner import Owner


def names(folder: RunFolder) -> set[str]:
    return {path.name for path in (folder.path / "logs").iterdir()}


def test_an_error_of_one_command_is_not_the_others(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with own_logs(run, "train-a") as training, own_logs(run, "evaluate-b") as evaluation:
        leave_failure(evaluation, UserError("no such file"))
        assert failure_left(training) is None
        assert str(failure_left(evaluation)) == "no such file"
        assert training.path == evaluation.path == tmp_path
        with own_logs(run, "train-a") as again:  # within the same second
            assert again.logs != training.logs
        (training.logs / "result.json").write_text("{}")
        (training.logs / "driver.log").write_text("kept")
    assert names(run) == {"train-a"}  # an evaluation of which nothing is to be read leaves nothing
    assert {path.name for path in training.logs.iterdir()} == {"owner.json", "driver.log"}


def test_ranks_of_one_torchrun_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_name("train").startswith("train-2")
    found = []
    for rank, run, port in (
        ("0", "none", "29500"),
        ("1", "none", "29500"),
        ("0", "none", "29501"),
        ("0", "x", "29500"),
    ):
        for name, value in (("RANK", rank), ("TORCHELASTIC_RUN_ID", run), ("MASTER_PORT", port)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        found.append(command_name("train"))
    assert found[0] == found[1] and len(set(found)) == 3


def test_the_newest_commands_logs_stay_and_nothing_else_is_touched(tmp_path: Path) -> None:
    run, logs = RunFolder(tmp_path), tmp_path / "logs"
    mine = json.loads(Owner.this_process("train").dump())
    for number in range(KEPT + 5):
        own = logs / f"train-{number:02d}"
        (own / "ray/deep").mkdir(parents=True)
        for name in ("driver.log", "last-words-0.json"):
            (own / name).write_text("words")
        (own / "owner.json").write_text(json.dumps(mine | ({} if number == 0 else {"started": "1"})))
        os.utime(own / "owner.json", (number, number))
    (logs / "train-01/thesis.txt").write_text("precious")
    (logs / "driver.log").write_text("of an older version")
    (logs / "train-02/link").symlink_to(tmp_path)
    with own_logs(run, "train-now") as now:
        (now.logs / "driver.log").write_text("words")
    left = names(run)
    assert {"train-00", "train-01", "train-02", "driver.log", "train-now"} <= left  # alive; a user's file; a link
    assert {path.name for path in (logs / "train-01").iterdir()} == {"thesis.txt"}
    assert not {f"train-{number:02d}" for number in range(3, 6)} & left
    assert {f"train-{number:02d}" for number in range(KEPT + 5 - 9, KEPT + 5)} <= left


def test_where_the_run_folder_cannot_be_written_logs_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    run = RunFolder(tmp_path)
    monkeypatch.setattr(command_logs, "_OWNER", str(full))  # a note that finds no room
    with own_logs(run, "evaluate-a", reads=True) as own:
        assert tmp_path not in own.logs.parents
        (own.logs / "driver.log").write_text("words")
    assert not own.logs.exists()
    with pytest.raises(OSError, match=r"No space left on device: .*full"), own_logs(run, "train-a"):
        pass
    assert names(run) == set()


def test_logs_do_not_go_through_links(tmp_path: Path) -> None:
    run, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "another"
    for folder in (run.path, elsewhere):
        folder.mkdir()
    (elsewhere / "precious").write_text("mine")
    (run.path / "logs").symlink_to(elsewhere)
    with own_logs(run, "evaluate-a", reads=True) as logged:  # which needs no place there
        assert not logged.logs.is_relative_to(run.path)
    with pytest.raises(OSError, match="a link, through which no logs are written"), own_logs(run, "train-a"):
        pass
    (run.path / "logs").unlink()
    (run.path / "logs/train-torchrun-x").mkdir(parents=True)  # whose name can be known before
    (run.path / "logs/train-torchrun-x/owner.json").symlink_to(elsewhere / "precious")
    (run.path / "logs/driver.log").symlink_to(elsewhere / "precious")
    with pytest.raises(OSError, match="symbolic links"), own_logs(run, "train-torchrun-x"):
        pass
    with pytest.raises(OSError, match="symbolic links"), captured_output(run.path / "logs/driver.log"):
        pass
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"precious": "mine"}
