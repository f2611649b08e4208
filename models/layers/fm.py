"""An FM's terms are read off fields whose rows hold first-order weight and factors side by side.

Gradients of terms and of an MLP over the same factors are added up on their way into one tensor, which is laid out as
the fields are: by autograd's own rules each would be a tensor of the fields' size, zero-filled, copied and added.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def fm_terms(field: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first-order sum [B] and the pairwise vector [B, D] of fields [B, F, 1 + D] with rows [w; v].

    Summed over D, the vector is sum_{i<j} <v_i, v_j> = 1/2 [(sum_i v_i)^2 - sum_i v_i^2], in O(F D) (Rendle, ICDM 2010,
    lemma 3.1).
    """
    first, pairs, _ = _Terms.apply(field, None)
    return first, pairs


def fm_terms_and_factors(field: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `fm_terms`, and all fields' factors with dense columns [B, N] behind them: [B, F D + N]."""
    first, pairs, beside = _Terms.apply(field, dense)
    return first, pairs, beside


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, dense: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        total = field.sum(1)
        pairs = (total[:, 1:].square() - field.square().sum(1)[:, 1:]) / 2
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(field, total)
        if dense is None:
            return total[:, 0].clone(), pairs, None
        factors = field[:, :, 1:]
        columns = factors.shape[1] * factors.shape[2]
        beside = field.new_empty(field.shape[0], columns + dense.shape[1])
        beside[:, :columns].view(factors.shape).copy_(factors)
        beside[:, columns:].copy_(dense)
        return total[:, 0].clone(), pairs, beside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor | None, pairs: Tensor | None, beside: Tensor | None) -> Any:
        field, total = ctx.saved_tensors
        of_field = _laid_out_as(field)
        weight, factors = of_field[:, :, 0], of_field[:, :, 1:]
        weight.zero_() if first is None else weight.copy_(first.unsqueeze(1).expand_as(weight))
        columns = factors.shape[1] * factors.shape[2]
        of_deep = None if beside is None else beside[:, :columns].unflatten(1, factors.shape[1:])
        if pairs is None:
            factors.zero_() if of_deep is None else factors.copy_(of_deep)
        else:  # d pairs / d v_i = sum_j v_j - v_i
            rest = total[:, 1:].unsqueeze(1) - field[:, :, 1:]
            if of_deep is None:
                torch.mul(rest, pairs.unsqueeze(1), out=factors)
            else:
                torch.addcmul(of_deep, rest, pairs.unsqueeze(1), out=factors)
        return of_field, None if beside is None or not ctx.needs_input_grad[1] else beside[:, columns:]


def _laid_out_as(field: Tensor) -> Tensor:
    """Returns an uninitialised tensor of a field's shape and strides: in memory of its own that has each row whole."""
    if field.stride(0) < field[0].numel() or field.stride(2) != 1:
        return torch.empty_like(field, memory_format=torch.contiguous_format)
    return field.new_empty(len(field), field.stride(0)).as_strided(field.shape, field.stride())
