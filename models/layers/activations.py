"""Activations by the names that run files use."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.moments import Standardise

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
        p = torch.sigmoid(self.moments(s))
        return s * torch.lerp(self.alpha.to(s.dtype).expand_as(s), torch.ones_like(s), p)


class Maxout(nn.Module):
    """The largest of `pieces` linear units (Goodfellow et al., ICML 2013): [n, pieces * C] -> [n, C]."""

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.pieces, -1)).amax(1)


def activation(name: Activation, width: int, *, padded: bool = True) -> nn.Module:
    """The activation of a layer of `width` outputs; `padded` as in `Standardise`."""
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
    """How many inputs the activation needs for `width` outputs."""
    return 2 * width if name == "maxout" else width
