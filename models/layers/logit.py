"""The logit is the last layer of a tower."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.kernels.logit import LogitKernel


class Logit(nn.Linear):
    """A logit is a linear layer to what a task reads, computed in its weights' precision whatever autocast says.

    bf16 has 8 bits: logits rounded to it would tie rows that the tower tells apart, which AUC and ranks suffer from.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] of any dtype -> [..., out_features]."""
        return logits(x, self.weight, self.bias)


def logits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns what a `Logit` of these parameters, [out_features, in_features] and [out_features], does."""
    if torch.compiler.is_exporting():  # programs are fp32, and autocast would be a graph inside of theirs
        return F.linear(x, weight, bias)
    is_single = len(weight) == 1 and x.dim() == 2 and weight.dtype == torch.float32
    if is_single and are_compiled(x, weight):
        return _CompiledLogit.apply(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(weight.dtype), weight, bias)


class _CompiledLogit(torch.autograd.Function):
    """Computes one column of logits in a pass over x, and gradients in another, without copies in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return LogitKernel(x, weight).forward(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = LogitKernel(x, weight).backward(gradient)
        return of_x, of_weight, gradient.sum(0) if ctx.has_bias else None
