"""Padded sequences are summed and compared over all L slots of a row, padding left out by a mask.

Exported programs compute so: their steps are the same for every batch, where those of jagged layers follow from it.
"""

import torch
from torch import Tensor


def padded_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Returns s_b = sum over t of weights_bt values_bt. Weights of padding are 0.

    values: [B, L, D], weights: [B, L] -> [B, D]
    """
    return torch.bmm(weights.unsqueeze(1), values).squeeze(1)


def padded_product(values: Tensor, vectors: Tensor) -> Tensor:
    """Returns y_bt = <values_bt, vectors_b>: [B, L, D], [B, D] -> [B, L]."""
    return torch.bmm(values, vectors.unsqueeze(2)).squeeze(2)


def padded_softmax(score: Tensor, live: Tensor) -> Tensor:
    """Returns the softmax over each row's live slots, 0 at padding and so all over an empty row.

    score: [B, L], live: [B, L] bool -> [B, L]
    """
    lowest = torch.finfo(score.dtype).min  # -inf would make the softmax of an empty row NaN
    return torch.softmax(score.masked_fill(~live, lowest), 1) * live


def padded_mean_weights(live: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns weights [B, L] whose `padded_sum` is the mean of the live slots, 0 of none: bool [B, L]."""
    weights = live.to(dtype)
    return weights / weights.sum(1, keepdim=True).clamp(min=1)
