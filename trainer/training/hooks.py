"""What happens between steps: logging, evaluation, checkpoints. Each hook knows its own period.

They run in this order after every step, so that a checkpoint holds what the evaluation of its step found.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.checkpoints import checkpoint
from shardrec.trainer.training.evaluation import evaluate

if TYPE_CHECKING:
    from shardrec.trainer.training.trainer import Trainer


class Hook(ABC):
    @abstractmethod
    def after_step(self, trainer: "Trainer") -> None:
        """Called when `trainer.position` stands behind the step that was made."""


def _is_due(trainer: "Trainer", every_steps: int | None, every_epochs: int | None) -> bool:
    position = trainer.position
    if every_steps and position.step % every_steps == 0:
        return True
    return bool(every_epochs and position.step_in_epoch == 0 and position.epoch % every_epochs == 0)


class Logging(Hook):
    """Every n steps: the mean loss since the last line, samples/s and the learning rates."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def after_step(self, trainer: "Trainer") -> None:
        position, progress = trainer.position, trainer.reporter.progress
        progress.step("training", position.step, trainer.total_steps, loss=trainer.last_loss, rate=trainer.clock.rate)
        if position.step % self.every_steps and not trainer.is_finished:
            return
        count = position.losses.pop("count")
        means = {name: total / count for name, total in position.losses.items()}
        position.losses.clear()
        values = {**means, "learning_rate_factor": trainer.last_factor, "rows": position.rows}
        if trainer.clock.rate:
            values["samples_per_second"] = round(trainer.clock.rate, 1)
        trainer.reporter.record("train", position.step, values)


class Evaluation(Hook):
    """Scores the validation split; keeps the best step and stops when it has not improved for long enough.

    Where the run file asks for it, the test split is scored beside it, and where tables have an L1 the share of their
    weights that are exactly 0 is counted, for the record only.
    """

    def after_step(self, trainer: "Trainer") -> None:
        settings = trainer.config.trainer.evaluation
        if _is_due(trainer, settings.every_steps, settings.every_epochs) or trainer.is_finished:
            self.evaluate(trainer)

    def evaluate(self, trainer: "Trainer") -> None:
        """Scores the splits as they stand."""
        if trainer.test is not None:
            self._score(trainer, "test", trainer.test)
        if trainer.validation is not None:
            self._judge(trainer, self._score(trainer, "validation", trainer.validation))
        with trainer.clock.paused():
            zeros = trainer.session.distributed.zero_shares()
        if zeros:
            trainer.reporter.record("zero_weights", trainer.position.step, {f"table/{t}": s for t, s in zeros.items()})

    def _score(self, trainer: "Trainer", split: str, loader: Loader) -> dict[str, float]:
        on_batch = trainer.reporter.progress.counter(f"evaluating {split}", loader.steps_per_epoch)
        with trainer.clock.paused():
            found = evaluate(trainer.session, loader, on_batch)
        trainer.reporter.record(split, trainer.position.step, found)
        return found

    def _judge(self, trainer: "Trainer", found: dict[str, float]) -> None:
        position, stopping = trainer.position, trainer.config.trainer.early_stopping
        name = trainer.best_metric
        sign = 1 if trainer.session.model.task.metrics().larger_is_better(name) else -1
        value = found[name]
        margin = stopping.min_delta if stopping else 0.0
        better = position.best is None or sign * (value - position.best["value"]) > margin
        if better and not math.isnan(value):  # the AUC of rows of one class is NaN
            position.best = {"metric": name, "value": value, "step": position.step, "metrics": found}
            position.stale = 0
            trainer.wants_checkpoint = True
        elif position.step:  # what a run starts from is nothing that did not improve
            position.stale += 1
            position.stopped = bool(stopping and position.stale >= stopping.patience)


class ProgressiveValidation(Hook):
    """Every n steps: the metrics of the rows since the last line, each scored before it was trained on.

    A checkpoint ends a line too, so that a resumed run writes the same lines.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def after_step(self, trainer: "Trainer") -> None:
        if trainer.position.step % self.every_steps == 0 or checkpoint_is_due(trainer):
            trainer.reporter.record("progressive", trainer.position.step, trainer.progressive_metrics())


def checkpoint_is_due(trainer: "Trainer") -> bool:
    """Whether one is written after this step: when its period says so, at a new best, and at the end."""
    settings = trainer.config.trainer.checkpoint
    due = _is_due(trainer, settings.every_steps, settings.every_epochs)
    return due or trainer.wants_checkpoint or trainer.is_finished


class Checkpoints(Hook):
    """Writes a checkpoint when one is due; marks the best; prunes."""

    def after_step(self, trainer: "Trainer") -> None:
        if not checkpoint_is_due(trainer):
            return
        trainer.wants_checkpoint = False
        with trainer.clock.paused():
            trainer.save_checkpoint()
        if trainer.session.environment.leads:
            trainer.mark_best()
            best = trainer.position.best
            checkpoint.prune(trainer.folder, trainer.config.trainer.checkpoint.keep, best["step"] if best else None)
