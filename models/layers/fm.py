"""An FM's terms are read off fields whose rows hold first-order weight and factors side by side.

Gradients of terms and of an MLP over the same factors are added up on their way into one tensor, which is laid out as
the fields are: by autograd's own rules each would be a tensor of the fields' size, zero-filled, copied and added.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shardrec.models.layers.kernels.fm import FmKernel
from shardrec.models.layers.kernels.library import are_compiled


def fm_terms(field: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first-order sum [B] and the pairwise vector [B, D] of fields [B, F, 1 + D] with rows [w; v].

    Summed over D, the vector is sum_{i<j} <v_i, v_j> = 1/2 [(sum_i v_i)^2 - sum_i v_i^2], in O(F D) (Rendle, ICDM 2010,
    lemma 3.1).
    """
    first, pairs, _ = _terms(field, None)
    return first, pairs


def fm_terms_and_factors(field: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `fm_terms`, and all fields' factors with dense columns [B, N] behind them: [B, F D + N].

    Those are for an MLP, in the precision that autocast would have it compute in.
    """
    first, pairs, beside = _terms(field, dense)
    assert beside is not None
    return first, pairs, beside


def _terms(field: Tensor, dense: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    terms: tuple[Tensor, Tensor, Tensor | None]
    given = [x for x in (field, dense) if x is not None]
    if are_compiled(*given) and all(x.dtype == torch.float32 for x in given):
        reduced = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        terms = _CompiledTerms.apply(field, dense, torch.bfloat16 if reduced else torch.float32)
    else:
        terms = _Terms.apply(field, dense)
    return terms


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


class _CompiledTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: Tensor, dense: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        field = field if field.stride() == _laid_out_as(field).stride() else field.contiguous()
        total, pairs, beside = FmKernel(field, dense).forward(dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(field, dense, total)
        return total[:, 0].clone(), pairs, beside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor | None, pairs: Tensor | None, beside: Tensor | None) -> Any:
        field, dense, total = ctx.saved_tensors
        of_field = _laid_out_as(field)
        FmKernel(field, dense).backward(total, first, pairs, beside, of_field)
        if beside is None or not ctx.needs_input_grad[1]:
            return of_field, None, None
        return of_field, beside[:, beside.shape[1] - dense.shape[1] :].to(dense.dtype), None


def _laid_out_as(field: Tensor) -> Tensor:
    """Returns an uninitialised tensor of a field's shape and strides: in memory of its own that has each row whole."""
    if field.stride(0) < field.shape[1:].numel() or field.stride(2) != 1:
        return torch.empty_like(field, memory_format=torch.contiguous_format)
    return field.new_empty(len(field), field.stride(0)).as_strided(field.shape, field.stride())
