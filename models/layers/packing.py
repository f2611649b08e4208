"""Packing puts the positions of jagged sequences in order of their step, so that each step is one slice.

Rows go by length, longest first. Step t then works on the first n_t of them, and its positions follow those of step
t - 1: nothing is padded, and no step touches a row that has ended.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Packing(NamedTuple):
    """A packing says where T positions of B rows go.

    counts: n_t, rows longer than t, for t = 0 .. L - 1
    rows: [n_0] the rows that are not empty, longest first
    last: [n_0] packed position of the last event of each of `rows`
    jagged: [T] position, in the order of the batch, of each packed position; packed: [T] the reverse
    """

    counts: tuple[int, ...]
    rows: Tensor
    last: Tensor
    jagged: Tensor
    packed: Tensor

    def pack(self, values: Tensor) -> Tensor:
        """Packs values: [T, ...] in the order of the batch -> packed."""
        return regroup(values, self.jagged, self.packed)

    def unpack(self, values: Tensor) -> Tensor:
        """Unpacks values: [T, ...] packed -> in the order of the batch."""
        return regroup(values, self.packed, self.jagged)

    def final(self, states: Tensor, batch_size: int) -> Tensor:
        """Returns the last state of each row, 0 for empty ones: [T, H] packed -> [B, H]."""
        ended = states.index_select(0, self.last)
        return states.new_zeros(batch_size, states.shape[1]).index_copy(0, self.rows, ended)


def pack_steps(lengths: Tensor, row: Tensor, offsets: Tensor, on_host: np.ndarray | None = None) -> Packing:
    """Orders positions by step.

    lengths: [B], row: [T] the row that owns each position, offsets: [B + 1]; on_host: `lengths` as the host has them,
    None: they are waited for
    """
    length, order = lengths.sort(descending=True, stable=True)
    counts = tuple((len(lengths) - rows_of_length(lengths, on_host).cumsum()[:-1]).tolist())  # n_t
    live = counts[0] if counts else 0
    steps = torch.arange(len(counts), device=lengths.device)
    longer = len(lengths) - torch.searchsorted(length.flip(0), steps, right=True)  # n_t on the device
    starts = longer.cumsum(0) - longer
    positions = torch.arange(len(row), device=row.device)
    step = positions - offsets[row]
    packed = starts[step] + inverse(order)[row]
    ends = starts[length[:live] - 1] + positions[:live]
    return Packing(counts, order[:live], ends, inverse(packed), packed)


def rows_of_length(lengths: Tensor, on_host: np.ndarray | None) -> np.ndarray:
    """Returns how many rows have 0, 1, ... positions. Waits for the device, unless the host has the lengths."""
    return np.bincount(lengths.tolist() if on_host is None else on_host, minlength=1)


def inverse(permutation: Tensor) -> Tensor:
    """Returns the permutation [n] that undoes the given one: inverse[permutation[i]] = i."""
    numbers = torch.arange(len(permutation), device=permutation.device)
    return torch.empty_like(permutation).index_copy_(0, permutation, numbers)


def regroup(values: Tensor, source: Tensor, reverse: Tensor) -> Tensor:
    """Returns values[source], [n, ...] -> [m, ...]; its gradient is gradient[reverse].

    `reverse` undoes `source`: so gradients are copied, where those of `index_select` would be added into zeros.
    """
    return _Regroup.apply(values, source, reverse)


class _Regroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, source: Tensor, reverse: Tensor) -> Tensor:
        ctx.save_for_backward(reverse)
        return values.index_select(0, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (reverse,) = ctx.saved_tensors
        return gradient.index_select(0, reverse), None, None
