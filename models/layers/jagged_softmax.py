"""A jagged softmax runs over the positions of each row of a jagged batch."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shardrec.models.layers.jagged_sum import segment_sum


def jagged_softmax(score: Tensor, row: Tensor, lengths: Tensor, offsets: Tensor) -> Tensor:
    """Returns a_t = exp(s_t) / sum of exp(s_j) over the positions j of t's row.

    score: [T], row: [T] the row that owns each position, lengths: [B], offsets: [B + 1] -> [T], 1 in sum in every row
    """
    return _JaggedSoftmax.apply(score, row, lengths, offsets)


class _JaggedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, row: Tensor, lengths: Tensor, offsets: Tensor) -> Tensor:
        largest = score.new_full((len(lengths),), -torch.inf).scatter_reduce_(0, row, score, "amax")
        share = (score - largest[row]).exp_()
        share /= segment_sum(share.unsqueeze(1), offsets).squeeze(1)[row]
        ctx.save_for_backward(share, row, offsets)
        return share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        share, row, offsets = ctx.saved_tensors
        weighted = gradient * share
        return weighted - share * segment_sum(weighted.unsqueeze(1), offsets).squeeze(1)[row], None, None, None
