"""A cancelled parameter changes nothing of what is learned: what follows takes it away again.

Batch norm takes away any shift of a column, softmax one of all its scores. Such a parameter's gradient is 0 but for
rounding, of which Adam makes steps as large as any other's: in training they cancel, but running moments lag behind
them, so that evaluation sees them.
"""

from torch import nn


def keep_at_zero(parameter: nn.Parameter) -> None:
    """Makes a parameter 0 and has no optimizer move it. It stays a parameter, so that a checkpoint may hold another."""
    nn.init.zeros_(parameter)
    parameter.requires_grad_(False)
