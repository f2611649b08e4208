"""A position is how far a run has come; a checkpoint's manifest keeps it beside the tensors."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    """A position says how far a run has come: all that training needs beside tensors.

    step: updates made; epoch and step_in_epoch: of the next batch; rows: trained on; losses: summed terms since the
    last log line; best: the best evaluation so far; stale: evaluations since then.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    rows: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    stale: int = 0
    stopped: bool = False
