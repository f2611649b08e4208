"""A jagged product multiplies each position of jagged sequences with a vector of its row.

The plain formula copies the rows' vectors to all positions and keeps the products: three arrays as large as the
positions' vectors. Here forward makes none of that size and backward one (the gradient); only pieces that fit a CPU's
cache are made of the others.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shardrec.models.layers.jagged_sum import segment_sum
from shardrec.models.layers.pieces import pieces


def jagged_product(values: Tensor, vectors: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """Returns y_t = <values_t, vectors_row(t)>.

    values: [T, D], vectors: [B, D], row: [T] the row that owns each position, offsets: [B + 1] -> [T]
    """
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
