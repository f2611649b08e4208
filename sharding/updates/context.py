"""An update context says what a training step's updates depend on beside its batch."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class UpdateContext:
    """A context is given once a step, before the forward pass, and is the same on all ranks.

    step: how many steps came before: ids are counted in it, and fp16 rows rounded by draws of it.
    learning_rate_factor: what all tables' learning rates are multiplied by.
    loss_weight: what the mean loss divides by, e.g. the summed sample weights of the global batch; FTRL's gradients are
    multiplied by it.
    halted: [1] bool on the device, which the forward pass may still set: where it is true, no gradient is used; None:
    all are. On a CPU nothing is updated then. A GPU is not waited for: there gradients are zero, by which optimizers
    with momentum or decay still change a little what nobody must save.
    """

    step: int
    learning_rate_factor: float = 1.0
    loss_weight: float = 1.0
    halted: Tensor | None = field(default=None, compare=False)

    @property
    def is_halted(self) -> bool:
        """Says whether nothing is to be updated, where that can be told without waiting for a device."""
        return self.halted is not None and self.halted.device.type == "cpu" and bool(self.halted)
