"""Dot products of the positions of jagged sequences with a vector of their row.

The plain formula copies the rows' vectors to all positions and keeps the products: three arrays as large as the
positions' vectors. Here forward makes none and backward one (the gradient); pieces that fit a CPU's cache pass by.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shardrec.models.layers.jagged_sum import segment_sum
from shardrec.models.layers.pieces import pieces


def row_of_position(lengths: Tensor, positions: int) -> Tensor:
    """[B] lengths that sum to `positions` -> [T] int64: the row that owns each position."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=positions)


def jagged_product(values: Tensor, vectors: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """y_t = <values_t, vectors_row(t)>.   values: [T, D], vectors: [B, D], row: [T], offsets: [B + 1] -> [T]"""
    return _JaggedProduct.apply(values, vectors, row, offsets)


class _JaggedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, vectors: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(values, vectors, row, offsets)
        product = values.new_empty(len(values))
        for piece in pieces(values):
            torch.sum(vectors.index_select(0, row[piece]).mul_(values[piece]), 1, out=product[piece])
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, vectors, row, offsets = ctx.saved_tensors
        of_values = of_vectors = None
        if ctx.needs_input_grad[0]:
            of_values = torch.empty_like(values, memory_format=torch.contiguous_format)
            for piece in pieces(values):
                copied = vectors.index_select(0, row[piece])
                torch.mul(copied, gradient[piece].unsqueeze(1), out=of_values[piece])
        if ctx.needs_input_grad[1]:
            of_vectors = segment_sum(values, offsets, gradient)
        return of_values, of_vectors, None, None
