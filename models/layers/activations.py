"""Activations are made by the names that run files use."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardrec.models.layers.kernels.dice import DiceKernel
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.moments import Standardise, gradient_of_sums
from shardrec.models.layers.pieces import pieces

Activation = Literal["relu", "leaky_relu", "prelu", "dice", "maxout", "tanh", "sigmoid", "gelu", "silu", "identity"]


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s, p = sigma((s - E[s]) / sqrt(Var[s] + eps)) (Zhou et al., KDD 2018, eq. 4).

    alpha is learned per column, from 0. Moments: those of the global batch's live rows, in evaluation running ones.
    """

    def __init__(self, width: int, *, eps: float = 1e-8, padded: bool = True) -> None:
        super().__init__()
        self.moments = Standardise(width, eps=eps, padded=padded)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, s: Tensor) -> Tensor:
        """[n, C] -> [n, C]."""
        if are_compiled(s, self.alpha):
            return _CompiledDice.apply(s, self.alpha, self.moments)
        s, mean, scale = self.moments.mean_and_scale(s)
        if torch.compiler.is_exporting():
            p = torch.sigmoid(torch.addcmul(-mean * scale, s, scale))
            return torch.addcmul(self.alpha, p, 1 - self.alpha) * s
        return _Dice.apply(s, mean, scale, self.alpha)


class _Dice(torch.autograd.Function):
    """Computes Dice for given moments in pieces: of a formula with ten arrays of s's size only the result is whole."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, mean: Tensor, scale: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(s, mean, scale, alpha)
        result = torch.empty_like(s, memory_format=torch.contiguous_format)
        shift, rest = -mean * scale, 1 - alpha
        for piece in pieces(s):
            x = s[piece].to(mean.dtype)
            p = torch.addcmul(shift, x, scale).sigmoid_()
            torch.mul(torch.addcmul(alpha, p, rest, out=p), x, out=result[piece])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s, mean, scale, alpha = ctx.saved_tensors
        of_s = torch.empty_like(s, memory_format=torch.contiguous_format)
        shift, rest = -mean * scale, 1 - alpha
        sums = mean.new_zeros(3, len(mean))
        for piece in pieces(s):
            x, g = s[piece].to(mean.dtype), gradient[piece].to(mean.dtype)
            exponent = torch.addcmul(shift, x, scale)
            p = exponent.sigmoid()
            left = torch.addcmul(g, g, p, value=-1)  # g (1 - p)
            of_alpha = left * x
            of_p = p.mul_(of_alpha)  # up to 1 - alpha, as are the sums: of the exponent
            sums[0] += of_alpha.sum(0)
            sums[1] += of_p.sum(0)
            sums[2] += exponent.mul_(of_p).sum(0)
            torch.addcmul(torch.addcmul(g, left, rest, value=-1, out=left), of_p, rest * scale, out=of_s[piece])
        of_alpha, of_shift, of_scale = sums
        return of_s, -of_shift * rest * scale, of_scale * rest / scale, of_alpha


class _CompiledDice(torch.autograd.Function):
    """Computes Dice, and in training the moments that it goes by, in two passes over s; backward in two more."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, alpha: Tensor, moments: Standardise) -> Tensor:
        live = moments.live(s) if moments.training else None
        kernel = DiceKernel(s, live)
        centre = moments.running_mean.clone()
        ctx.totals = kernel.sums(centre).requires_grad_() if moments.training else None
        with torch.enable_grad():
            mean, scale = moments.of_totals(ctx.totals, s.shape[0], live)
        ctx.save_for_backward(s, live, centre, alpha)
        ctx.moments = mean, scale
        return kernel.forward(mean.detach(), scale.detach(), alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        s, live, centre, alpha = ctx.saved_tensors
        kernel = DiceKernel(s, live)
        mean, scale = (x.detach() for x in ctx.moments)
        of_s, of_moments, of_alpha = kernel.backward(gradient, mean, scale, alpha)
        if ctx.totals is not None:
            (of_totals,) = torch.autograd.grad(ctx.moments, ctx.totals, of_moments, retain_graph=True)
            kernel.add_by_moments(of_s, *gradient_of_sums(of_totals, centre))
        return of_s, of_alpha, None


class Maxout(nn.Module):
    """Maxout takes the largest of `pieces` linear units (Goodfellow et al., ICML 2013)."""

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """[n, pieces * C] -> [n, C]."""
        return x.unflatten(1, (self.pieces, -1)).amax(1)


def activation(name: Activation, width: int, *, padded: bool = True) -> nn.Module:
    """Makes the activation of a layer of `width` outputs; `padded` as in `Standardise`."""
    match name:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU()
        case "prelu":
            return nn.PReLU(width)
        case "dice":
            return Dice(width, padded=padded)
        case "maxout":
            return Maxout()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "identity":
            return nn.Identity()
    raise ValueError(f"unknown activation {name!r}")


def input_width(name: Activation, width: int) -> int:
    """Returns how many inputs the activation needs for `width` outputs."""
    return 2 * width if name == "maxout" else width
