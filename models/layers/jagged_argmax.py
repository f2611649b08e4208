"""A jagged argmax finds the position of each row's largest score."""

import torch
from torch import Tensor


@torch.no_grad()
def jagged_argmax(score: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Returns [B] int64: the position of each row's largest score, the first one of equals, T for a row without any.

    score: [T]; row: [T] the row that owns each position; lengths: [B]. A NaN counts as the largest, as in torch.argmax.
    """
    nowhere = score.new_zeros(len(lengths), dtype=torch.int64).fill_(len(score))
    largest = score.new_full((len(lengths),), -torch.inf).scatter_reduce_(0, row, score, "amax")
    position = torch.arange(len(score), device=score.device)
    best = largest[row]
    position = torch.where((score >= best) | score.isnan(), position, len(score))
    return nowhere.scatter_reduce_(0, row, position, "amin")
