"""A run's checkpoints are those in its folder: it goes on from the newest whole one, and keeps the last and best."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.unwritten_file import CopyMemory
from shardrec.trainer.checkpoints import checkpoint
from shardrec.trainer.checkpoints.damage import damage
from shardrec.trainer.checkpoints.manifest import MANIFEST, read_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.removal import prune
from shardrec.trainer.checkpoints.saving import Saving
from shardrec.trainer.checkpoints.set_aside import moved_aside
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.synced import push
from shardrec.trainer.run_folder.worker_lines import say
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.splits import Splits
from shardrec.trainer.training.state import TrainingState
from shardrec.trainer.training.watch import Watch


class RunCheckpoints:
    """A run's checkpoints hold its session, its state and the files of its splits. All workers use them alike."""

    def __init__(self, folder: RunFolder, session: Session, splits: Splits, state: TrainingState, watch: Watch) -> None:
        self._folder, self._session, self._splits, self._state, self._watch = folder, session, splits, state, watch
        self._leads, self._settings = session.environment.leads, session.config.trainer
        self._saving: Saving | None = None
        self._memory: CopyMemory | None = None
        self._marked: int | None = None  # as the best, which stays until another one is
        watch.before_refusal(self.complete)

    # ------------------------------------------------------------ going on

    def restore_newest(self) -> bool:
        """Takes up the newest whole checkpoint; says whether there is one.

        Damaged ones after it are set aside, with a line each. Raises UserError, on all workers, where none is whole, or
        the newest whole one is not this run's, both with nothing changed on disk; and where it is not to be gone on
        from.
        """
        steps = self._session.environment.broadcast(self._folder.steps() if self._leads else None)
        if not steps:
            return False
        position, steps = self._restored(steps)
        self._state.take_up(position, steps, self._settings.early_stopping)
        self._mark_best(self._state.best_step)
        if self._leads:
            self._folder.describe(self._session.config)
        self._watch.check_restored(steps[-1])
        return True

    def _restored(self, steps: list[int]) -> tuple[Position, list[int]]:
        """Restores the newest of some checkpoints that is whole; returns its position, and the steps up to it."""
        environment = self._session.environment
        damaged: dict[Location, str] = {}
        for count in range(len(steps), 0, -1):
            at = self._folder.checkpoint(steps[count - 1])
            saved, problem = environment.broadcast(_saved_files(at) if self._leads else None)
            if saved is not None:
                self._splits.take_up(**saved)
                try:
                    with self._session.moving():
                        position = checkpoint.restore(at, self._session)
                except UserError as error:
                    problem = str(error)
                else:
                    self._pass_over(damaged, steps[count - 1])
                    return position, steps[:count]
            assert problem is not None
            if environment.broadcast(damage(at) if self._leads else None) is None:
                raise UserError(problem)
            damaged[at] = problem
        raise UserError(next(iter(damaged.values())) + "; no earlier checkpoint is whole")

    def _pass_over(self, damaged: Mapping[Location, str], step: int) -> None:
        """Sets damaged checkpoints aside, where they would be taken for what this run is about to write."""
        for at, problem in damaged.items() if self._leads else ():
            aside = moved_aside(at)
            found = problem.partition("; ")[0]
            say(self._folder.logs, f"{found}; {at.name} is now {aside.name}, and the run goes on from step {step}")

    # ------------------------------------------------------------ between steps

    def save(self, *, at_once: bool = False) -> None:
        """Writes a checkpoint of this step, or begins to, once the one before is complete.

        at_once: it is complete when this returns, as it always is in the foreground and at the end of training. Raises
        UserError, and writes none, where training could not go on from it, or another training has the folder.
        """
        self.complete()
        state, settings = self._state, self._settings.checkpoint
        state.improved = False
        if self._leads:
            self._folder.check_owned()
            push(self._folder.path)  # so that who goes on from the checkpoint finds what was recorded until then
        later = settings.background and not (at_once or state.is_finished)
        if self._is_complete(state.position.step):
            self._watch.saved()
            self._tidy(state.best_step)
            return
        if later and self._memory is None:
            self._memory = CopyMemory(settings.copy_memory)
        try:
            with self._session.moving():
                memory = self._memory if later else None
                self._saving = Saving(self._folder, self._session, state.position, self._splits.state(), memory)
        except UnsoundValuesError as error:
            raise self._watch.not_saved(error) from None
        self._watch.saved()
        if not later:
            self.complete()

    @property
    def is_written(self) -> bool:
        """Says whether this worker has written its share of a checkpoint that is not complete yet."""
        return self._saving is not None and self._saving.is_written

    def complete(self) -> None:
        """Completes the checkpoint that is under way, if any: waits for what is written of it; marks the best, prunes.

        Raises on all workers what came of writing.
        """
        if self._saving is None:
            return
        saving = self._saving
        try:
            with self._session.moving():
                saving.complete()
        except Exception:
            self._saving = None
            raise
        self._saving = None
        self._tidy(saving.best_step)

    def rescue(self) -> None:
        """Completes what is under way, after an error, where that needs no other worker."""
        if self._session.environment.world_size == 1:
            with suppress(OSError, UserError):  # the first error counts
                self.complete()

    def give_up(self) -> None:
        """Leaves what is under way unfinished, as for a worker that ends before the others know.

        What cannot be removed of it then is removed by the next training.
        """
        if self._saving is not None:
            with suppress(OSError, UserError):  # why the worker ends is what counts
                self._saving.give_up()

    def _is_complete(self, step: int) -> bool:
        there = (self._folder.checkpoint(step) / MANIFEST).exists() if self._leads else None
        return self._session.environment.broadcast(there)

    def _tidy(self, best: int | None) -> None:
        self._mark_best(best)
        self.prune()

    def prune(self, *, is_over: bool = False) -> None:
        """Deletes old checkpoints, the last good one only once a newer one has proved to be good, and is complete."""
        spared = self._watch.spared(is_over=is_over)
        if self._leads and self._saving is None:
            prune(self._folder, self._settings.checkpoint.keep, self._state.best_step, self._marked, spared)

    def _mark_best(self, best: int | None) -> None:
        """Names the best step in the run folder, once its checkpoint is there."""
        if self._leads and best is not None and best in self._folder.steps():
            self._marked = best
            if best != self._folder.best_step():
                self._folder.mark_best(best)

    # ------------------------------------------------------------ at the end

    def restore_best(self) -> None:
        """Fills the session from the best checkpoint, where that is not what it holds."""
        if (step := self._state.best_step) not in (None, self._state.position.step):
            with self._session.moving():
                checkpoint.restore(self._folder.checkpoint(step), self._session)


def _saved_files(at: Location) -> tuple[dict[str, Any] | None, str | None]:
    """Returns what `Splits.take_up` needs of a checkpoint, or else what is wrong with its manifest."""
    try:
        content = read_manifest(at)
    except UserError as error:
        return None, str(error)
    return {"saved": content["order"], "scored": content["position"].get("best") is not None}, None
