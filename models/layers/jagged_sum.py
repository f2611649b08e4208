"""A jagged sum adds up the weighted positions of each row of a jagged batch.

Where no kernel is compiled, a pooled lookup that is asked for all positions in order is the fastest segment sum on
CPUs: five to seventeen times faster than `index_add_` and `segment_reduce` at 16 to 64 columns.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.kernels.jagged import JaggedKernel
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.pieces import pieces


def segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the sums over row b's positions t of weights_t values_t, without autograd.

    values: [T, D], offsets: [B + 1], weights: [T], None: 1 -> [B, D]
    """
    values = values.detach()
    if not len(values):
        return values.new_zeros(len(offsets) - 1, values.shape[1])
    if are_compiled(values):
        return JaggedKernel(values, offsets, weights).sums()
    positions = torch.arange(len(values), device=values.device)
    weights = None if weights is None else weights.detach().to(values.dtype)
    return F.embedding_bag(
        positions, values.contiguous(), offsets, mode="sum", include_last_offset=True, per_sample_weights=weights
    )


def jagged_sum(values: Tensor, weights: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """Returns s_b = sum over row b's positions t of weights_t values_t; 0 for an empty row. Differentiable.

    values: [T, D], weights: [T], row: [T] the row that owns each position, offsets: [B + 1] -> [B, D]
    """
    return _JaggedSum.apply(values, weights, row, offsets)


class _JaggedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(values, weights, row, offsets)
        return segment_sum(values, offsets, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, weights, row, offsets = ctx.saved_tensors
        if are_compiled(values):
            of_values, of_weights = JaggedKernel(values, offsets, weights).gradients(gradient)
            return of_values, of_weights.to(weights.dtype), None, None
        of_values, of_weights = torch.empty_like(values), torch.empty_like(weights)
        for piece in pieces(values):
            copied = gradient.index_select(0, row[piece])
            torch.mul(copied, weights[piece].unsqueeze(1), out=of_values[piece])
            torch.sum(copied.mul_(values[piece]), 1, out=of_weights[piece])
        return of_values, of_weights, None, None
