"""An update context says what a training step's updates depend on beside its batch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpdateContext:
    """A context is given once a step, before the forward pass, and is the same on all ranks.

    step: how many steps came before: ids are counted in it, and fp16 rows rounded by draws of it.
    learning_rate_factor: what all tables' learning rates are multiplied by.
    loss_weight: what the mean loss divides by, e.g. the summed sample weights of the global batch; FTRL's gradients are
    multiplied by it.
    """

    step: int
    learning_rate_factor: float = 1.0
    loss_weight: float = 1.0
