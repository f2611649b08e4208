"""Ordered bits are float32 scores as int32 of one order, which ties, sorting and histograms go by."""

import torch
from torch import Tensor

INFINITY = 0x7F800000
NAN_SCORES = "the model's scores are NaN"


def ordered_bits(score: Tensor) -> Tensor:
    """Returns [n] int32 of float32 scores; -0 and 0 are one. NaNs lie outside the infinities."""
    bits = (score.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def ordered_score(bits: Tensor) -> Tensor:
    """Returns the scores of `ordered_bits`."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def is_nan(bits: Tensor) -> Tensor:
    """Returns [n] bool: whether the score was NaN."""
    return (bits > INFINITY) | (bits < -INFINITY - 1)
