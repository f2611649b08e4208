"""A checkpoint that is read is not pruned."""

import json
import os
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.manifest import FORMAT, TOWER_FILE, write_manifest
from shardrec.trainer.checkpoints.removal import prune
from shardrec.trainer.run_folder import holds
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import Hold, held_steps, hold_step
from shardrec.trainer.run_folder.owner import Owner

EMPTY = {
    "format": FORMAT,
    "world_size": 1,
    "device": "cpu",
    "order": {},
    "tables": [],
    "tower": {"bytes": 0, "crc32": 0},
    "generators": [""],
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3, 4):
        run.checkpoint(step).mkdir(parents=True)
        place = {"step": step, "epoch": 0, "step_in_epoch": step, "rows": 0}
        (run.checkpoint(step) / TOWER_FILE).touch()
        write_manifest(run.checkpoint(step) / "manifest.json", EMPTY | {"position": place})
    return run


def marks(folder: RunFolder) -> list[str]:
    return [path.name for path in folder.checkpoints.glob(".*")]


def test_a_step_that_is_read_outlives_pruning(folder: RunFolder) -> None:
    step, hold = hold_step(folder, 1)
    with hold, Hold(folder.checkpoint(1)):
        prune(folder, 1, 3)
        assert step == 1 and folder.steps() == [1, 3, 4]
    prune(folder, 1, 3)
    assert folder.steps() == [3, 4]
    assert marks(folder) == []


def test_a_hold_ends_with_what_it_belongs_to(folder: RunFolder) -> None:
    held = [Hold(folder.checkpoint(2))]
    assert held_steps(folder) == {2}
    held.clear()
    assert held_steps(folder) == set() and marks(folder) == []


def test_holds_of_the_dead_count_no_more(folder: RunFolder) -> None:
    mine = json.loads(Owner.this_process("read").dump())
    (folder.checkpoints / ".step-1.held-a").write_text(json.dumps(mine | {"started": "1"}))
    far = folder.checkpoints / ".step-2.held-b"
    far.write_text(json.dumps(mine | {"host": "far"}))
    assert held_steps(folder) == {2}
    long_ago = far.stat().st_mtime - 2 * holds.SILENCE_SECONDS
    os.utime(far, (long_ago, long_ago))
    assert held_steps(folder) == set() and marks(folder) == []


def test_one_that_is_pruned_while_it_is_chosen_is_not_taken(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "_PATIENCE_SECONDS", 0.05)
    (folder.checkpoint(4) / "manifest.json").unlink()
    chosen = iter([4, 3])
    monkeypatch.setattr(RunFolder, "choose_step", lambda self, step=None: next(chosen))
    step, hold = hold_step(folder)
    with hold:
        assert step == 3 and held_steps(folder) == {3}
    chosen = iter([4])
    with pytest.raises(UserError, match=r"step-4: was pruned by its training just now; name another --step"):
        hold_step(folder, 4)


def test_a_folder_that_cannot_be_written_is_read_without(tmp_path: Path) -> None:
    with Hold(tmp_path / "nowhere/step-1"):
        pass


def test_a_checkpoint_of_another_run_that_is_linked_to_is_not_pruned(folder: RunFolder, tmp_path: Path) -> None:
    theirs = tmp_path / "another" / "step-1"
    theirs.parent.mkdir()
    folder.checkpoint(1).rename(theirs)
    folder.checkpoint(1).symlink_to(theirs)
    prune(folder, 1)
    assert folder.steps() == [1, 4]
    assert {path.name for path in theirs.iterdir()} == {"manifest.json", TOWER_FILE}
