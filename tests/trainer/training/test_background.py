"""Checkpoints written while training goes on: what is saved, and what a run comes to, is as in the foreground."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardrec.data_pipeline.errors import ResumableError, UserError
from shardrec.sharding.checkpoints.unwritten_file import CopyMemory, UnwrittenFile
from shardrec.trainer.checkpoints.damage import damage
from shardrec.trainer.checkpoints.share import Share
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.leaving import Leaving
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.run_checkpoints import RunCheckpoints
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.trainer import Trainer
from tests.processes import forkserver, run_processes
from tests.trainer.recorded import assert_same_checkpoint, records
from tests.trainer.small_run import run_file, write_data

EVERY, LAST = 4, 22
SETTINGS = {
    "trainer": {
        "epochs": 2,
        "checkpoint": {"every_steps": EVERY, "keep": 20},
        "evaluation": {"every_steps": 5},
        "progressive_validation": True,
    },
    "tables": {
        "item": {"dtype": "fp16"},  # rounded by draws that have to go on, too
        "user": {"dynamic": {"rows": 120, "after": 2}},  # of 301 users
        "kind": {"placement": "data_parallel"},
    },
}
BACKGROUND = "trainer.checkpoint.background=true"
ALL_FIT, SOME_FIT, NONE_FIT = "1MB", "3KB", "1"
"""Sizes of `copy_memory`: 120 rows of users are 1,920 bytes without their state, and 97 items of fp16 are 776."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("background") / "data", rows=2400)


@pytest.fixture(scope="module")
def foreground(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(run_file(tmp_path_factory.mktemp("foreground") / "run.yaml", data, **SETTINGS))


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    return run_file(tmp_path / "run.yaml", data, **SETTINGS)


def trained(path: Path, *overrides: str, resume: bool = False) -> RunFolder:
    config = load(path, overrides)
    train_run(config, resume=resume, quiet=True, embedded=True)
    return RunFolder.open(config.run)


def in_thread(patch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Calls `act` before each write of a thread that writes a checkpoint."""
    write = os.write

    def acting(descriptor: int, data: Any) -> int:
        if threading.current_thread().name == "checkpoint":
            act()
        return write(descriptor, data)

    patch.setattr(os, "write", acting)


def slowly() -> None:
    time.sleep(0.004)


def completed_at(patch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Fills with (step of a checkpoint, step after which it was complete)."""
    found, complete = [], RunCheckpoints.complete

    def noting(self: RunCheckpoints) -> None:
        saving = self._saving
        complete(self)
        if saving is not None:
            found.append((saving.step, self._state.position.step))

    patch.setattr(RunCheckpoints, "complete", noting)
    return found


def assert_same(folder: RunFolder, other: RunFolder) -> None:
    """Bit for bit, with all checkpoints that both have kept; nothing else is left."""
    assert records(folder) == records(other)
    assert folder.best_step() == other.best_step()
    (summary, expected) = (run.summary() or {} for run in (folder, other))
    assert all(summary[key] == expected[key] for key in ("metrics", "steps", "rows", "best_step"))
    assert folder.steps()[-1] == other.steps()[-1] == LAST
    for step in folder.steps():
        assert_same_checkpoint(folder.checkpoints / f"step-{step}", other.checkpoints / f"step-{step}")
    assert {at.name for at in folder.checkpoints.iterdir()} == {"best", *(f"step-{step}" for step in folder.steps())}


@pytest.mark.parametrize("size", [ALL_FIT, SOME_FIT, NONE_FIT])
def test_it_is_the_run_of_the_foreground(
    size: str, path: Path, foreground: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_thread(monkeypatch, slowly)
    found = completed_at(monkeypatch)
    copied = _noted_copies(monkeypatch)
    folder = trained(path, BACKGROUND, f"trainer.checkpoint.copy_memory={size}")
    assert_same(folder, foreground)
    assert folder.steps() == foreground.steps() == [step for step, _ in found]
    assert found[-1] == (LAST, LAST)
    assert all(0 <= complete - step <= EVERY for step, complete in found)
    if size == ALL_FIT:
        assert any(complete > step + 1 for step, complete in found)  # training did go on meanwhile
    assert bool(copied) == (size != NONE_FIT)
    if not copied:
        assert all(complete == min(step + 1, LAST) for step, complete in found)


def _noted_copies(patch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the files that were copied; none is more than what the bound leaves."""
    names, copied = [], CopyMemory.copied

    def noting(self: CopyMemory, files: Any, beside: int = 0) -> Any:
        made = copied(self, files, beside)
        names.extend(file.path.name for file in made if file.is_copied)
        assert beside + sum(file.copy_bytes for file in made if file.is_copied) <= self.most
        assert self.size <= self.most
        return made

    patch.setattr(CopyMemory, "copied", noting)
    return names


# ---------------------------------------------------------------- several workers


def _train_slowly(rank: int, path: Path, overrides: tuple[str, ...], fails: bool) -> tuple[str, list[tuple[int, int]]]:
    """Trains as one rank of a torchrun; only the last one's thread is slow, or finds no room from step 8 on."""
    with pytest.MonkeyPatch.context() as patch:
        found = completed_at(patch)
        if rank == 1:
            in_thread(patch, no_room_from(path, 8) if fails else slowly)
        try:
            train_run(load(path, overrides), quiet=True, embedded=True)
        except UserError as error:
            return str(error), found
    return "", found


def no_room_from(path: Path, step: int) -> Callable[[], None]:
    at = Path(load(path).run) / "checkpoints"

    def act() -> None:
        if (at / f".step-{step}.tmp").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return act


@pytest.mark.long
def test_all_workers_complete_it_after_the_same_step(path: Path, tmp_path: Path) -> None:
    other = path.with_name("other.yaml")
    other.write_text(path.read_text().replace(str(tmp_path / "run"), str(tmp_path / "other")))
    run_processes(2, _train_slowly, other, (), False)
    (said, found), (_, theirs) = run_processes(2, _train_slowly, path, (BACKGROUND,), False)
    assert said == "" and found == theirs and any(complete > step for step, complete in found)
    assert_same(RunFolder.open(tmp_path / "run"), RunFolder.open(tmp_path / "other"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_is_a_line_and_leaves_the_checkpoint_before(
    ranks: int, path: Path, foreground: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(path.with_suffix(""))
    if ranks == 1:
        with monkeypatch.context() as patch, pytest.raises(UserError) as ended:
            in_thread(patch, no_room_from(path, 8))
            trained(path, BACKGROUND)
        lines = [str(ended.value)]
    else:
        lines = [line for line, _ in run_processes(2, _train_slowly, path, (BACKGROUND,), True)]
    for line in lines:
        assert ".step-8.tmp/" in line and len(line.splitlines()) == 1
        assert line.endswith(
            "No space left on device; make room, then go on with --resume: checkpoint step-5 stays good"
        )
    assert folder.steps() == [4, 5]
    assert {at.name for at in folder.checkpoints.iterdir()} == {"best", "step-4", "step-5"}
    if ranks == 1:
        assert_same(trained(path, BACKGROUND, resume=True), foreground)


# ---------------------------------------------------------------- what befalls a run meanwhile


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written in the background before it is waited for."""
    gate, wait = threading.Event(), Share.wait

    def waiting(self: Share) -> None:
        gate.set()
        wait(self)
        gate.clear()

    monkeypatch.setattr(Share, "wait", waiting)
    in_thread(monkeypatch, lambda: None if gate.wait(30) else pytest.fail("nobody waits"))


def meanwhile(path: Path, act: Callable[[Trainer], Leaving], *overrides: str, resume: bool = False) -> RunFolder:
    """Trains, and acts in each step: before its checkpoint, with those of earlier steps as they are."""

    def worker(config: Any, folder: RunFolder, environment: Environment) -> dict[str, Any]:
        trainer = Trainer(config, folder, environment)
        try:
            trainer.restore()
            trainer.fit(lambda: act(trainer))
            return trainer.finish()
        except Exception:
            trainer.checkpoints.rescue()
            raise
        finally:
            trainer.checkpoints.give_up()

    config = load(path, (BACKGROUND, *overrides))
    folder = RunFolder.create(config, resume=resume)
    launch(worker, config, folder)
    return folder


def test_keep_never_leaves_none_that_is_good(path: Path, held_back: None) -> None:
    seen = list[list[int]]()

    def look(trainer: Trainer) -> Leaving:
        seen.append(trainer.folder.steps())
        assert all(damage(trainer.folder.checkpoint(step)) is None for step in seen[-1])
        return Leaving.NO

    none = ("trainer.evaluation.every_steps=50", "trainer.evaluation.every_epochs=50")
    folder = meanwhile(path, look, "trainer.checkpoint.keep=1", *none)
    assert folder.steps()[-1] == LAST
    assert seen[:9] == [[]] * 8 + [[4]]  # the one of step 8 is not there when nobody has waited for it
    assert all(seen[8:]) and [4, 8] not in seen


def test_one_that_is_under_way_is_no_reason_to_delete_a_good_one(path: Path, held_back: None) -> None:
    """Nothing has shown that step 11 is good, and that step 12 is helps nobody before it is complete."""
    seen: dict[int, list[int]] = {}

    def look(trainer: Trainer) -> Leaving:
        step = trainer.state.position.step
        seen[step] = trainer.folder.steps()
        if step == 11:
            trainer.watch._evidence.unproven = None
        return Leaving.NO

    meanwhile(path, look, "trainer.checkpoint.keep=1", "trainer.evaluation.every_steps=50")
    assert seen[13] == seen[14] == [8, 11]
    assert seen[17] == [11, 12]  # of which 11 is the best


def test_workers_that_are_told_to_leave_complete_it(path: Path, foreground: RunFolder, held_back: None) -> None:
    def leave(trainer: Trainer) -> Leaving:
        return Leaving.END if trainer.state.position.step == 8 else Leaving.NO  # which is the ninth, after the save

    with pytest.raises(ResumableError, match="after step 9"):
        meanwhile(path, leave)
    folder = RunFolder.open(path.with_suffix(""))
    assert folder.steps() == [4, 5, 8, 9]
    assert_same_checkpoint(folder.checkpoints / "step-8", foreground.checkpoints / "step-8")
    assert trained(path, BACKGROUND, resume=True).steps()[-1] == LAST
    assert_same_checkpoint(folder.checkpoints / f"step-{LAST}", foreground.checkpoints / f"step-{LAST}")


@pytest.mark.parametrize(("error", "left"), [(UserError("rows are gone"), [4, 5, 8]), (KeyboardInterrupt(), [4, 5])])
def test_an_error_meanwhile_leaves_no_half(
    error: BaseException, left: list[int], path: Path, foreground: RunFolder, held_back: None
) -> None:
    """The checkpoint is completed before a run ends by an error, as it was; who interrupts does not wait for it."""

    def fail(trainer: Trainer) -> Leaving:
        if trainer.state.position.step == 9:
            raise error
        return Leaving.NO

    with pytest.raises(type(error)):
        meanwhile(path, fail)
    folder = RunFolder.open(path.with_suffix(""))
    assert {at.name for at in folder.checkpoints.iterdir()} == {"best", *(f"step-{step}" for step in left)}
    assert_same(trained(path, BACKGROUND, resume=True), foreground)


@pytest.mark.parametrize("writes", [0, 3, 20])
def test_killed_meanwhile_it_goes_on_from_the_one_before(writes: int, path: Path, foreground: RunFolder) -> None:
    process = forkserver().Process(target=_killed, args=(path, writes))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    folder = RunFolder.open(path.with_suffix(""))
    assert folder.steps() == [4, 5] and (folder.checkpoints / ".step-8.tmp").is_dir()
    assert_same(trained(path, BACKGROUND, resume=True), foreground)


def _killed(path: Path, writes: int) -> None:
    """Is killed in its tenth step, when so many writes of step 8 are done."""
    at, done = path.with_suffix("") / "checkpoints" / ".step-8.tmp", list[int]()

    def stop() -> None:
        if at.exists():
            done.append(1)
            time.sleep(60 if len(done) > writes else 0)

    def kill(trainer: Trainer) -> Leaving:
        while trainer.state.position.step == 9:
            if len(done) > writes:
                os.kill(os.getpid(), signal.SIGKILL)
        return Leaving.NO

    with pytest.MonkeyPatch.context() as patch:
        in_thread(patch, stop)
        meanwhile(path, kill)


def test_values_that_are_not_finite_are_found_when_it_is_begun(path: Path, held_back: None) -> None:
    def spoil(trainer: Trainer) -> Leaving:
        if trainer.state.position.step == 7:
            (shard,) = trainer.session.distributed.tables["item"].shards
            shard.tensors["accumulator"][5] = torch.nan
        return Leaving.NO

    with pytest.raises(UserError, match=r"step 8: .* not finite, .* and are not saved; checkpoint step-5 is good"):
        meanwhile(path, spoil)
    folder = RunFolder.open(path.with_suffix(""))
    assert {at.name for at in folder.checkpoints.iterdir()} == {"best", "step-4", "step-5"}


def test_a_run_that_diverges_goes_back_to_one_that_was_under_way(path: Path, held_back: None) -> None:
    """The loss of step 10 says that step 8 was good, which is completed for that; then step 10 is out of proportion."""
    spoiled = list[int]()

    def spoil(trainer: Trainer) -> Leaving:
        if trainer.state.position.step == 9 and not spoiled:
            spoiled.append(1)
            for table in trainer.session.distributed.tables.values():
                for shard in table.shards:
                    shard.weight.mul_(1e4)
        return Leaving.NO

    folder = meanwhile(path, spoil, "trainer.on_divergence=rollback", "trainer.evaluation.every_steps=50")
    (back,) = [record["step"] for record in folder.records() if record["kind"] == "rollback"]
    assert back == 8 and folder.steps()[-1] == LAST


def test_copies_stay_as_they_were_made_and_within_the_bound(tmp_path: Path) -> None:
    live = [
        torch.arange(n, dtype=torch.float32).view(-1, 2)[:, :columns] for n, columns in ((40, 2), (400, 1), (30, 2))
    ]
    live[2][3, 1] = torch.inf
    files = [UnwrittenFile(tmp_path / str(n), {"table": "t"}, {"weight": rows}) for n, rows in enumerate(live)]
    assert [file.copy_bytes for file in files] == [192, 832, 128]
    memory = CopyMemory(400)
    copies = memory.copied(files, beside=100)
    assert [file.is_copied for file in copies] == [True, False, False]  # the largest that fits
    assert memory.size == 192
    copies = memory.copied(files)
    assert [file.is_copied for file in copies] == [True, False, True] and memory.size == 192 + 128
    assert [file.unsound for file in copies] == [{}, None, {"weight": 1}]
    before = [rows.clone() for rows in live]
    for rows in live:
        rows.zero_()
    assert torch.equal(copies[0].tensors["weight"], before[0]) and torch.equal(copies[2].tensors["weight"], before[2])
    assert copies[1].tensors["weight"] is live[1]
