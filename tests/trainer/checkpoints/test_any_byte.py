"""A disk that is full, and a kill, at any byte of a checkpoint: the one before stays, and nothing else does."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import full_disk_named
from shardrec.trainer.checkpoints.damage import damage
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer
from tests.processes import run_processes
from tests.trainer.small_run import run_file, write_data

BYTES_OF_A_CALL = 500
"""What a call that writes nothing (rename, fsync, unlink ...) counts as, among bytes."""

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


class Disk:
    """All that a process writes, byte by byte, and what it calls; after `room` of that something happens."""

    def __init__(self, patch: pytest.MonkeyPatch, room: float, happens: Callable[[], NoReturn], *, calls: bool) -> None:
        self.used, self._room, self._happens = 0, room, happens
        write, opened = os.write, Path.open

        def limited(descriptor: int, data: Any) -> int:
            count = min(len(data), max(0, int(min(self._room - self.used, len(data)))))
            done = write(descriptor, data[:count]) if count else 0
            self.used += done
            if count < len(data):
                happens()
            return done

        def limited_open(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode[0] not in "xwa":
                return opened(path, mode, *arguments, **named)
            file = opened(path, mode.replace("b", "") + "b", buffering=0)
            raw = _Raw(file, limited)
            return raw if "b" in mode else TextIOWrapper(raw, write_through=True)  # type: ignore[type-var]

        patch.setattr(os, "write", limited)
        patch.setattr(Path, "open", limited_open)
        for name in CALLS if calls else ():
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.used += BYTES_OF_A_CALL
            if self.used > self._room:
                self._happens()
            return call(*arguments, **named)

        return counted


class _Raw:
    """A file whose writes are limited."""

    def __init__(self, file: Any, write: Callable[[int, Any], int]) -> None:
        self._file, self._write = file, write

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[self._write(self._file.fileno(), rest) :]
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def fill_up() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def saved(trainer: Trainer, room: float, happens: Callable[[], NoReturn], *, calls: bool) -> str:
    """What comes of saving a checkpoint on such a disk: how much it took, or a line, or who ended the process."""
    reads, writes = os.pipe()
    if not (child := os.fork()):
        tell = os.write
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, room, happens, calls=calls)
            try:
                with full_disk_named(trainer.folder.path, lambda: "go on"):
                    trainer.checkpoints.save()
                    trainer.checkpoints.complete()
                said = f"took {disk.used}"
            except UserError as error:
                said = str(error)
            except BaseException as error:
                said = f"bug: {error!r}"
        tell(writes, said.encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or f"signal {os.WTERMSIG(status)}"


def save_on_bad_disks(rank: int, path: Path) -> None:
    """Makes a checkpoint, and tries another at every turn: with `keep: 1` the first stays until that has proved."""
    config = load(path)
    folder = RunFolder.create(config, resume=False)
    trainer = Trainer(config, folder, Environment.from_variables("cpu"))
    trainer.restore()
    batches = trainer.loader.epoch(0)
    for _ in range(2):
        trainer.state.moved_to_next_batch(trainer.loader.steps_per_epoch)
        trainer.train_step(next(batches))
        trainer.read_losses()
        if trainer.state.position.step == 1:
            trainer.checkpoints.save()
            trainer.checkpoints.complete()
    batches.close()
    before = path.parent / "before"
    shutil.copytree(folder.path, before)

    def put_back() -> None:
        shutil.rmtree(folder.path)
        shutil.copytree(before, folder.path)

    whole = {calls: float(saved(trainer, float("inf"), fill_up, calls=calls).partition("took ")[2]) for calls in (0, 1)}

    @given(share=st.floats(0, 1))
    @settings(max_examples=15, deadline=None)
    def a_full_disk(share: float) -> None:
        put_back()
        said = saved(trainer, share * (whole[0] - 1), fill_up, calls=False)
        assert "No space left on device; make room, then go on" in said and len(said.splitlines()) == 1, said
        left = sorted(at.name for at in folder.checkpoints.iterdir())
        assert left in (["step-1"], ["step-1", "step-2"]), left
        assert all(damage(folder.checkpoint(step)) is None for step in folder.steps())

    @given(share=st.floats(0, 1))
    @settings(max_examples=15, deadline=None)
    def a_kill(share: float) -> None:
        put_back()
        assert saved(trainer, share * (whole[1] - 1), die, calls=True) == f"signal {signal.SIGKILL.value}"
        steps = folder.steps()
        assert 1 in steps and all(damage(folder.checkpoint(step)) is None for step in steps)
        assert saved(trainer, float("inf"), die, calls=False).startswith("took")
        assert sorted(at.name for at in folder.checkpoints.iterdir()) == ["step-1", "step-2"]
        assert damage(folder.checkpoint(2)) is None

    a_full_disk()
    a_kill()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_or_a_kill_at_any_byte_of_a_checkpoint(background: bool, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", rows=240)
    settings = {"every_steps": 1, "keep": 1, "background": background}
    path = run_file(tmp_path / "run.yaml", data, trainer={"checkpoint": settings})
    run_processes(1, save_on_bad_disks, path)
