"""Hooks say what happens between steps, and when: a hook looks at the state and decides, the trainer acts."""

from collections.abc import Callable
from dataclasses import dataclass

from shardrec.trainer.config.sections import CheckpointConfig, EvaluationConfig
from shardrec.trainer.training.state import TrainingState


@dataclass(frozen=True)
class Hook:
    """A hook is an action of the trainer's, called after each step for which `due` says so of the state."""

    due: Callable[[TrainingState], bool]
    act: Callable[[], None]


def is_due(state: TrainingState, every_steps: int | None, every_epochs: int | None = None) -> bool:
    """Says whether a period of steps, or one of epochs, ends with the step that was just made."""
    position = state.position
    if every_steps and position.step % every_steps == 0:
        return True
    return bool(every_epochs and position.step_in_epoch == 0 and position.epoch % every_epochs == 0)


def log_is_due(state: TrainingState, every_steps: int) -> bool:
    """Says whether a line is logged: every so many steps, and at the end."""
    return is_due(state, every_steps) or state.is_finished


def evaluation_is_due(state: TrainingState, config: EvaluationConfig) -> bool:
    """Says whether the validation split is scored: when its period says so, and at the end."""
    return is_due(state, config.every_steps, config.every_epochs) or state.is_finished


def checkpoint_is_due(state: TrainingState, config: CheckpointConfig) -> bool:
    """Says whether a checkpoint is written: when its period says so, at a new best, and at the end."""
    return is_due(state, config.every_steps, config.every_epochs) or state.improved or state.is_finished


def progressive_is_due(state: TrainingState, every_steps: int, config: CheckpointConfig) -> bool:
    """Says whether progressive validation writes a line: with the log, and at a checkpoint.

    So a resumed run writes the same lines.
    """
    return is_due(state, every_steps) or checkpoint_is_due(state, config)


def stop_is_looked_for(state: TrainingState, every_steps: int, config: EvaluationConfig) -> bool:
    """Says whether a run looks for somebody's wish that it stop: with the log and after evaluations, but at the end."""
    return not state.is_finished and (is_due(state, every_steps) or evaluation_is_due(state, config))
