"""A position is how far a run has come; a checkpoint's manifest keeps it beside the tensors."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

Count = Annotated[int, Field(ge=0, lt=2**62)]


@dataclass
class Position:
    """A position says how far a run has come: all that training needs beside tensors.

    step: updates made; epoch and step_in_epoch: of the next batch; rows: trained on; losses: summed terms since the
    last log line; best: the best evaluation so far; stale: evaluations since then. first_loss: of the run's first step,
    by which a later one is told to be out of all proportion. rollbacks: how often the run went back to a checkpoint,
    and on from it with lower rates. left_out: rows that could not be read and were not trained on; left_out_of_epoch:
    those of this epoch. owes_evaluation: the evaluation due at this step failed, and is to be made first.
    """

    step: Count = 0
    epoch: Count = 0
    step_in_epoch: Count = 0
    rows: Count = 0
    losses: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    stale: Count = 0
    stopped: bool = False
    first_loss: float | None = None
    rollbacks: Count = 0
    left_out: Count = 0
    left_out_of_epoch: Count = 0
    owes_evaluation: bool = False
