"""A hold keeps a checkpoint from being pruned by a training while another command reads it.

It is a file beside the checkpoint that says who reads. Where none can be made (a folder that may not be written, a full
disk) the checkpoint is read without.
"""

import itertools
import re
import time
import weakref
from contextlib import suppress

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.heartbeat import HEARTBEAT, write_mark
from shardrec.trainer.run_folder.owner import Owner

SILENCE_SECONDS = 600.0  # without a sign of life from another machine a hold counts no more
_PATIENCE_SECONDS = 1.0  # pruning takes less, from moving a checkpoint away until it moves a held one back
_count = itertools.count()


class Hold:
    """A hold is there until it is released, forgotten, or its process ends."""

    def __init__(self, checkpoint: Location) -> None:
        owner = Owner.this_process("read")
        mark = checkpoint.with_name(f".{checkpoint.name}.held-{owner.host}-{owner.pid}-{next(_count)}")
        try:
            write_mark(mark, owner.dump())
        except (OSError, StoreError):
            with suppress(OSError, StoreError):
                mark.unlink(missing_ok=True)
            self.release = lambda: None
            return
        HEARTBEAT.add(mark, owner.dump())
        self.release = weakref.finalize(self, _let_go, mark)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _let_go(mark: Location) -> None:
    HEARTBEAT.remove(mark)
    with suppress(OSError, StoreError):
        mark.unlink(missing_ok=True)


def hold_step(folder: RunFolder, step: int | None = None, *, newest: bool = False) -> tuple[int, Hold]:
    """Chooses a step as `choose_step` does, or the `newest`, and holds its checkpoint, which is complete.

    Raises UserError where there is none.
    """
    while True:
        chosen = folder.choose_step(max(folder.steps(), default=None) if newest and step is None else step)
        hold = Hold(folder.checkpoint(chosen))
        if _is_complete(folder.checkpoint(chosen)):
            return chosen, hold
        hold.release()
        if step is not None:
            raise UserError(f"{folder.checkpoint(step)}: was pruned by its training just now; name another --step")


def _is_complete(checkpoint: Location) -> bool:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not (checkpoint / "manifest.json").exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def held_steps(folder: RunFolder) -> set[int]:
    """Returns the steps of the checkpoints that somebody reads; holds of processes that have ended are removed."""
    held = set()
    for mark in folder.checkpoints.glob(".step-*.held-*"):
        step = re.match(r"\.step-(\d+)\.held-", mark.name)
        if step and _counts(mark):
            held.add(int(step[1]))
    return held


def _counts(mark: Location) -> bool:
    try:
        owner, age = Owner.parse(mark.read_text(errors="replace")), time.time() - mark.stat().st_mtime
    except OSError:
        return False
    alive = owner.alive if owner else None
    if alive is None:
        alive = age < SILENCE_SECONDS
    if not alive:
        with suppress(OSError, StoreError):
            mark.unlink(missing_ok=True)
    return alive
