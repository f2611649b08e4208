"""Values that are not finite, or so large that no step changes them, are told from those that training goes on from.

Bounds lie far above what training comes to, and so far below what fp32 holds (3.4e38) that squares, and their sums over
a batch, stay finite.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

LARGEST_GRADIENT = 1e12
"""The largest norm of a gradient that goes into a kernel: its squares, and a row's sums over a batch, are finite."""

LARGEST_VALUE = 1e15
"""The largest weight, or moving sum of gradients, that is saved: fp32 has steps of 1e8 there."""

LARGEST_SQUARE = LARGEST_VALUE**2

_OF_SQUARES = frozenset({"accumulator", "mean_square", "n", "exp_avg_sq", "square_avg", "sum"})
_CHUNK_BYTES = 32 << 20  # that are looked at at once


def largest_value(name: str) -> float:
    """Returns the bound of a tensor of a table or a parameter: `weight`, or optimizer state by its rule's name."""
    return LARGEST_SQUARE if name in _OF_SQUARES else LARGEST_VALUE


def count_beyond(values: Tensor, largest: float) -> int:
    """Counts the values that are not finite or whose magnitude is above `largest`. Integers never are.

    Where there is none, as ever but once, that is one pass without a copy.
    """
    if not values.is_floating_point() or not values.numel():
        return 0
    largest = min(largest, torch.finfo(values.dtype).max)  # what fp16 cannot hold is compared as infinite
    low, high = torch.aminmax(values)  # NaN where any value is
    if float(low) >= -largest and float(high) <= largest:
        return 0
    return int((~(values.abs() <= largest)).sum())


def unsound_values(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Counts the values beyond their bounds in tensors by the names of `largest_value`; of those that have any.

    A tensor is looked at by chunks of rows, so that what is made of it on the way is small.
    """
    counts = {}
    for name, tensor in tensors.items():
        rows = max(1, _CHUNK_BYTES // max(1, tensor[:1].nbytes)) if tensor.dim() else 1
        chunks = tensor.split(rows) if tensor.dim() else (tensor,)
        if count := sum(count_beyond(chunk, largest_value(name)) for chunk in chunks):
            counts[name] = count
    return counts
