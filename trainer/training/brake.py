"""A brake halts updates on the device from the first step whose loss or gradients are not fit to be trained on.

The host reads losses late there, so as not to wait: what it would refuse has to change nothing until it has read it.
"""

import math

import torch
from torch import Tensor

from shardrec.trainer.training.divergence import DIVERGED


class Brake:
    """A brake remembers that it was pulled. halted: [1] bool on the device. All ranks pull it alike.

    first_loss: the run's first, to which others are in proportion; None before there is one.
    """

    def __init__(self, device: torch.device, first_loss: float | None) -> None:
        self.halted = torch.zeros(1, dtype=torch.bool, device=device)
        first = math.nan if first_loss is None else first_loss
        self._first = torch.tensor(first, dtype=torch.float64, device=device)

    def look(self, summed: Tensor, stopped: Tensor) -> None:
        """Pulls the brake where a loss is out of all proportion, or any number of `stopped` is not 0.

        summed: [terms, 2], totals and counts over all ranks, of which the loss is the sum of means.
        """
        total, count = summed.unbind(1)
        loss = torch.where(count != 0, total / count, 0.0).sum()
        finite = loss.isfinite()
        self._first = torch.where(self._first.isnan() & finite, loss, self._first)
        in_proportion = loss.abs() <= DIVERGED * self._first.abs().clamp(min=1)
        self.halted |= ~(finite & in_proportion & (stopped == 0).all())
