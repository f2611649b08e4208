"""A run that diverges ends with one line that names what broke, and what to go on from, on all workers alike."""

from collections.abc import Callable, Sequence

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.removal import remove
from shardrec.trainer.checkpoints.set_aside import moved_aside
from shardrec.trainer.config.sections import OptimizerConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.divergence import Evidence

NAMED = 5  # rows or tables that an error line names


class DivergedError(UserError):
    """A run has diverged. what: broke. good: the step of the checkpoint to go on from, if there is one.

    Another process gets the line alone.
    """

    def __init__(self, line: str, *, what: str = "", good: int | None = None) -> None:
        super().__init__(line)
        self.what, self.good = what, good


class Refusal:
    """A refusal to go on sets aside the checkpoints that no run should go on from: `--resume` takes what it names.

    resumed: the run folder was there before this training, and stays. complete: is called first, and completes the
    checkpoint that is under way.
    """

    def __init__(
        self, folder: RunFolder, environment: Environment, optimizer: OptimizerConfig, evidence: Evidence
    ) -> None:
        self._folder, self._environment, self._optimizer, self._evidence = folder, environment, optimizer, evidence
        self.resumed = False
        self.complete: Callable[[], None] = lambda: None

    def because(self, what: str, remedy: str | None = None) -> DivergedError:
        """Returns the error for what broke. remedy: None is to lower the rates. All workers call it alike.

        Raises what comes of completing the checkpoint that is under way.
        """
        self.complete()
        left, doubtful = self._environment.broadcast(self._set_aside() if self._environment.leads else None)
        kept, going_on = "no checkpoint is good", "start anew"
        if left is not None:
            kept = f"checkpoint step-{left} is {'good' if left == self._evidence.sound else 'the one before'}"
            going_on = "go on from it with --resume"
        elif self.resumed:
            going_on = "start anew under another `run`"
        if doubtful and (left is not None or self.resumed):
            kept += f", {some_of([f'step-{step}' for step in doubtful])} not (now named step-N.diverged)"
        line = f"{what}; {kept}; {remedy or self._lower_rates()}, and {going_on}"
        return DivergedError(line, what=what, good=left)

    def _set_aside(self) -> tuple[int | None, list[int]]:
        """Sets doubtful checkpoints aside; they are removed where the whole run is about to be discarded.

        Returns the newest step that is left, and the doubtful ones.
        """
        steps = self._folder.steps()
        doubtful = [step for step in steps if step in self._evidence.unsound]
        left = max((step for step in steps if step not in doubtful), default=None)
        for step in doubtful:
            if left is None and not self.resumed:
                remove(self._folder.checkpoint(step))
            else:
                moved_aside(self._folder.checkpoint(step), "diverged")
        return left, doubtful

    def _lower_rates(self) -> str:
        tables, tower = self._optimizer.tables.learning_rate, self._optimizer.tower.learning_rate
        return f"lower optimizer.tables.learning_rate ({tables:g}) or optimizer.tower.learning_rate ({tower:g})"


def some_of(names: Sequence[object]) -> str:
    """Returns the first few of some names."""
    return ", ".join(map(str, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
