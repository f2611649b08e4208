"""A residual norm is a layer norm of what a layer adds to its input."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.kernels.residual_norm import ResidualNormKernel


def residual_norm(norm: nn.LayerNorm, x: Tensor, added: Tensor) -> Tensor:
    """Returns norm(x + added): [n, C] each, the sum and the result in fp32 at least."""
    given = (x, added, norm.weight, norm.bias)
    if x.dim() == 2 and are_compiled(*given) and x.dtype == norm.weight.dtype == torch.float32:
        return _ResidualNorm.apply(*given, norm.eps)
    return norm(x + added)


class _ResidualNorm(torch.autograd.Function):
    """Computes it in a pass; of what lies between it keeps the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, z, moments = ResidualNormKernel(len(x), weight, bias, eps).forward(x, added)
        ctx.save_for_backward(z, moments, weight, bias)
        ctx.eps, ctx.added = eps, added.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, moments, weight, bias = ctx.saved_tensors
        return *ResidualNormKernel(len(z), weight, bias, ctx.eps).backward(z, moments, gradient, ctx.added), None
