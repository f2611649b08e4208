"""A state says where a training run stands, apart from the loop that moves it: hooks decide by it."""

import math
from dataclasses import dataclass, field
from typing import Any

from shardrec.models.undefined import Undefined, undefined_in, with_reasons
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.config.sections import EarlyStopping, TrainerConfig


def last_step(settings: TrainerConfig, steps_per_epoch: int) -> int:
    """Returns the step after which a run ends, where nothing stops it before."""
    steps = settings.epochs * steps_per_epoch
    return min(steps, settings.max_steps) if settings.max_steps else steps


@dataclass
class TrainingState:
    """A state is a run's position, and what only the process that trains it knows.

    total_steps: after which training ends. loss: the last that was read. learning_rate_factor: of the last step.
    improved: the last evaluation was the best so far, and has no checkpoint yet.
    """

    total_steps: int
    position: Position = field(default_factory=Position)
    loss: float = math.nan
    learning_rate_factor: float = 1.0
    improved: bool = False

    @property
    def is_finished(self) -> bool:
        """Says whether training has reached its last step or was stopped early."""
        return self.position.step >= self.total_steps or self.position.stopped

    def moved_to_next_batch(self, steps_per_epoch: int) -> None:
        """Moves the position behind the next batch of the data."""
        position = self.position
        if position.step_in_epoch == 0:
            position.left_out_of_epoch = 0
        position.step_in_epoch += 1
        if position.step_in_epoch == steps_per_epoch:
            position.epoch, position.step_in_epoch = position.epoch + 1, 0

    def stepped(self, rows: int) -> None:
        """Counts an update. rows: live ones of the global batch."""
        self.position.step, self.position.rows = self.position.step + 1, self.position.rows + rows

    def missed(self, rows: int) -> None:
        """Counts rows of the global batch that could not be read."""
        self.position.left_out += rows
        self.position.left_out_of_epoch += rows

    def lost(self, losses: dict[str, float]) -> None:
        """Adds up a step's losses, its mean terms."""
        sums = self.position.losses
        for name, value in {**losses, "count": 1}.items():
            sums[name] = sums.get(name, 0) + value
        self.loss = losses["loss"]

    def mean_losses(self) -> dict[str, float]:
        """Returns the loss terms' means over the steps since the last call, and forgets them."""
        losses = self.position.losses
        count = losses.pop("count", 1)  # of no step, where all had rows that cannot be read and no others
        means = {name: total / count for name, total in losses.items()}
        losses.clear()
        return means

    def judge(
        self, metrics: dict[str, float], name: str, *, larger_is_better: bool, stopping: EarlyStopping | None
    ) -> None:
        """Takes an evaluation into account: the best so far is kept; too many that are not better stop the run.

        name: of a metric that is defined. What a run starts from, before its first step, counts as no failure to
        improve. A best of another metric (of a run that was resumed by another) is measured by this one.
        """
        position, value = self.position, metrics[name]
        sign = 1 if larger_is_better else -1
        margin = stopping.min_delta if stopping else 0.0
        before = None if position.best is None else position.best["metrics"].get(name)
        if before is None or sign * (value - before) > margin:
            position.best = {
                "metric": name,
                "value": value,
                "step": position.step,
                "metrics": {k: None if isinstance(v, Undefined) else v for k, v in metrics.items()},
                "undefined": undefined_in(metrics),
            }
            position.stale = 0
            self.improved = True
        elif position.step:
            position.stale += 1
            self.stop_if_stale(stopping)

    def best_metrics(self) -> dict[str, float] | None:
        """Returns the metrics of the best evaluation so far; None before there is one."""
        best = self.position.best
        return None if best is None else with_reasons(best["metrics"], best.get("undefined", {}))

    def stop_if_stale(self, stopping: EarlyStopping | None) -> None:
        """Stops a run that has not improved for as long as early stopping allows."""
        self.position.stopped = bool(stopping and self.position.stale >= stopping.patience)

    def take_up(self, position: Position, steps: list[int], stopping: EarlyStopping | None) -> None:
        """Stands where a checkpoint was made, under today's settings.

        steps: of the checkpoints that are there; a best step that is not among them is forgotten.
        """
        self.position = position
        if position.best and position.best["step"] not in steps:
            position.best, position.stale = None, 0
        self.stop_if_stale(stopping)

    @property
    def best_step(self) -> int | None:
        """Returns the step of the best evaluation so far; None before there is one."""
        best: dict[str, Any] | None = self.position.best
        return best["step"] if best else None
