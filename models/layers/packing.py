"""Positions of jagged sequences regrouped by time step, so that step t of a recurrent layer is one contiguous slice.

Rows go by length, longest first. Step t then works on the first n_t of them, and its positions follow those of step
t - 1: nothing is padded, and no step touches a row that has ended.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Packing(NamedTuple):
    """Where T positions of B rows go.

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
        """[T, ...] in the order of the batch -> packed."""
        return regroup(values, self.jagged, self.packed)

    def unpack(self, values: Tensor) -> Tensor:
        """[T, ...] packed -> in the order of the batch."""
        return regroup(values, self.packed, self.jagged)

    def final(self, states: Tensor, batch_size: int) -> Tensor:
        """The last state of each row, 0 for empty ones: [T, H] packed -> [B, H]."""
        ended = states.index_select(0, self.last)
        return states.new_zeros(batch_size, states.shape[1]).index_copy(0, self.rows, ended)


def pack_steps(lengths: Tensor, row: Tensor, offsets: Tensor) -> Packing:
    """lengths: [B], row: [T] the row that owns each position, offsets: [B + 1]. Waits for the device once: `counts`."""
    length, order = lengths.sort(descending=True, stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    ended = torch.bincount(lengths).cumsum(0)
    longer = len(lengths) - ended[:-1]  # n_t
    counts = tuple(longer.tolist())
    live = counts[0] if counts else 0
    starts = longer.cumsum(0) - longer
    positions = torch.arange(len(row), device=row.device)
    step = positions - offsets[row]
    packed = starts[step] + place[row]
    jagged = torch.empty_like(packed).index_copy_(0, packed, positions)
    ends = starts[length[:live] - 1] + positions[:live]
    return Packing(counts, order[:live], ends, jagged, packed)


def regroup(values: Tensor, source: Tensor, reverse: Tensor) -> Tensor:
    """values[source], [n, ...] -> [m, ...], with the gradient's [reverse] as gradient.

    So `reverse` undoes `source`, and gradients are copied, where those of `index_select` would be added into zeros.
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
