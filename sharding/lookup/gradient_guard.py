"""Gradients that are not finite, or absurdly large, are kept out of the kernels that update rows inside backward.

They are looked at on their way, where vectors leave the lookup: before they are exchanged, and so before any rank's
kernel sees them. Nobody waits for that: a flag on the device remembers, and the trainer reads it with the next loss,
which it waits for anyway, and before anything is saved.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.sharding.updates.context import UpdateContext


class GradientGuard:
    """A guard stops gradients of a lookup's parts.

    tables: the names of each part's tables. sequences: of each part, whether its output is one JaggedTensor a feature,
    else it is a KeyedTensor.
    """

    def __init__(self, tables: Sequence[Sequence[str]], sequences: Sequence[bool]) -> None:
        self.tables = tuple(map(tuple, tables))
        self._sequences = tuple(sequences)
        self._stopped: Tensor | None = None
        self._halted: Tensor | None = None

    def begin(self, context: UpdateContext) -> None:
        """Starts a step: where its updates are halted no gradient passes."""
        self._halted = context.halted

    def stopped(self, device: torch.device) -> Tensor:
        """Returns [parts] bool on the device: whether a gradient of each part's was ever stopped on this rank."""
        if self._stopped is None:
            self._stopped = torch.zeros(len(self.tables), dtype=torch.bool, device=device)
        return self._stopped

    def watch(self, outputs: Sequence[Any]) -> None:
        """Watches the gradients of the parts' outputs, where there will be any."""
        if torch.is_grad_enabled():
            for part, vectors in self._vectors(outputs):
                if vectors.requires_grad:
                    vectors.register_hook(partial(self._passed, part))

    def _vectors(self, outputs: Sequence[Any]) -> Iterator[tuple[int, Tensor]]:
        for part, (output, sequences) in enumerate(zip(outputs, self._sequences, strict=True)):
            for vectors in output.values() if sequences else [output]:
                yield part, vectors.values()

    def _passed(self, part: int, gradient: Tensor | None) -> Tensor | None:
        """Returns what goes on in place of a gradient: zeros for one that is stopped, None for it as it is.

        Vectors that the loss does not depend on, split from others that it does, have none.
        """
        if gradient is None:
            return None
        sound = torch.linalg.vector_norm(gradient, dtype=torch.float32) <= LARGEST_GRADIENT  # False for NaN
        passes = sound if self._halted is None else sound & ~self._halted
        if gradient.device.type == "cpu" and bool(passes):  # a CPU's result is there already; this spares a copy
            return None
        self.stopped(gradient.device)[part].logical_or_(~sound)
        return torch.where(passes, gradient, 0)
