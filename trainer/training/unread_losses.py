"""Losses of steps lie on the device until the host reads them, in order: at once, or a step or two later."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.batch import Batch


@dataclass(frozen=True, eq=False)
class StepLoss:
    """A step's loss is on its way to the host, with what is needed to say what is wrong with it.

    step: how many came before. terms: names. output: the model's, for `batch`.
    """

    step: int
    terms: Sequence[str]
    output: Any
    batch: Batch
    _numbers: Tensor
    _arrived: torch.cuda.Event | None

    @classmethod
    def leaving(cls, step: int, terms: Sequence[str], output: Any, batch: Batch, numbers: Tensor) -> "StepLoss":
        """Starts to bring a step's numbers, summed over all ranks, to the host."""
        if numbers.device.type == "cpu":
            return cls(step, terms, output, batch, numbers, None)
        host = torch.empty(numbers.shape, dtype=numbers.dtype).pin_memory()
        host.copy_(numbers, non_blocking=True)
        return cls(step, terms, output, batch, host, torch.cuda.current_stream(numbers.device).record_event())

    def numbers(self) -> list[float]:
        """Returns [total, count of each term, stopped gradients]; waits for the step's forward pass."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(self._numbers.tolist())


class UnreadLosses:
    """Unread losses are those of the last steps, at most `late` of them once `due` was gone through."""

    def __init__(self, late: int) -> None:
        self._late = late
        self._losses: deque[StepLoss] = deque()

    def add(self, loss: StepLoss) -> None:
        """Adds a step's loss behind those of earlier steps."""
        self._losses.append(loss)

    def due(self) -> Iterator[StepLoss]:
        """Yields those that are to be read now, oldest first."""
        while len(self._losses) > self._late:
            yield self._losses.popleft()

    def all(self) -> Iterator[StepLoss]:
        """Yields all of them, oldest first."""
        while self._losses:
            yield self._losses.popleft()
