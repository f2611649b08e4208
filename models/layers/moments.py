"""Batch normalisation goes by the moments of live rows, over all ranks.

Padding rows must not shift anybody's mean, and ranks must agree on one: which rows are live and how ranks add up is
said for a whole forward pass by `live_rows`, so that models and layers pass neither along.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardrec.models.layers.pieces import pieces


def identity(tensor: Tensor) -> Tensor:
    """Returns the tensor: the sum over the ranks of one process."""
    return tensor


class _RowContext(NamedTuple):
    live: Tensor | None = None
    reduce: Callable[[Tensor], Tensor] = identity
    gather: Callable[[Tensor], Tensor] = identity


_EVERY_ROW = _RowContext()
_context: ContextVar[_RowContext] = ContextVar("row_context", default=_EVERY_ROW)


@contextmanager
def live_rows(
    live: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] = identity,
    gather: Callable[[Tensor], Tensor] = identity,
) -> Iterator[None]:
    """Says for the forward passes inside which rows count in moments, and how ranks sum and join theirs.

    live: [B] bool, False at padding rows; None: all rows live. reduce: differentiable elementwise sum over ranks (its
    backward sums gradients over ranks); gather: all ranks' rows, as many of each, in rank order (its backward sums the
    gradients of a rank's rows over ranks). Every rank calls them equally often. Needed around training steps; in
    evaluation layers use running moments, which are equal on all ranks.
    """
    token = _context.set(_RowContext(live, reduce, gather))
    try:
        yield
    finally:
        _context.reset(token)


def gathered(tensor: Tensor) -> Tensor:
    """Returns all ranks' rows of a tensor, in rank order, as `live_rows` says: [n, ...] -> [ranks n, ...]."""
    return _context.get().gather(tensor)


class Standardise(nn.Module):
    """y = (x - E[x]) / sqrt(Var[x] + eps) per column.

    Training takes moments over the live rows of all ranks, evaluation the running ones. One reduction of [2 C + 1]
    numbers a call. A batch without live rows leaves the running moments alone.
    padded: whether x's rows are the batch's, padding included, and not, say, the positions of sequences (all live).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1, padded: bool = True) -> None:
        super().__init__()
        self.eps, self.momentum, self.padded = eps, momentum, padded
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, C] -> [n, C]."""
        x, mean, scale = self.mean_and_scale(x)
        return ((x.to(mean.dtype) - mean) * scale).to(x.dtype)

    def mean_and_scale(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns x to go on with, E[x] and 1 / sqrt(Var[x] + eps), [C] each; in training running moments follow."""
        totals = live = None
        if self.training:
            live = self.live(x)
            # all ranks know the running mean: sums of what is left after it cancel less than sums of x
            x, totals = _ColumnSums.apply(x, self.running_mean.clone(), live)
        return x, *self.of_totals(totals, x.shape[0], live)

    def live(self, x: Tensor) -> Tensor | None:
        """Returns which rows of x count in its moments, None: all."""
        live = _context.get().live if self.padded else None
        return None if live is None else live[: x.shape[0]]  # users' towers have no rows of drawn items

    def of_totals(self, totals: Tensor | None, row_count: int, live: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns E[x] and 1 / sqrt(Var[x] + eps) as `mean_and_scale` does, in training from this rank's part.

        totals: [2 C], the sums over live rows of x - running mean and of its square, None: not in training
        """
        if totals is None:
            return self.running_mean, torch.rsqrt(self.running_var + self.eps)
        count = totals.new_tensor([row_count]) if live is None else live.sum(dtype=totals.dtype)[None]
        sums = _context.get().reduce(torch.cat([totals, count]))
        width, rows = len(self.running_mean), sums[-1].clamp(min=1)
        offset, square = sums[:width] / rows, sums[width:-1] / rows
        mean, var = self.running_mean + offset, (square - offset.square()).clamp(min=0)
        self._remember(mean.detach(), var.detach(), sums[-1].detach())
        return mean, torch.rsqrt(var + self.eps)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, row_count: Tensor) -> None:
        """Moves the running moments; not where there are no rows. The variance kept is the unbiased one."""
        share = row_count.clamp(max=1) * self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (row_count / (row_count - 1).clamp(min=1)), share)


class _ColumnSums(torch.autograd.Function):
    """Returns x and, [2 C], the sums over live rows of x - centre and of its square.

    Nothing of x's size is made in forward. Who uses x takes the returned one: its gradient is added in passing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centre: Tensor, live: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, centre, live)
        sums = centre.new_zeros(2, len(centre))
        for piece in pieces(x):
            shifted = x[piece].to(centre.dtype) - centre
            if live is not None:
                shifted.masked_fill_(~live[piece, None], 0)
            sums[0] += shifted.sum(0)
            sums[1] += shifted.square_().sum(0)
        return x, sums.flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, of_sums: Tensor) -> tuple[Tensor, None, None]:
        x, centre, live = ctx.saved_tensors
        level, slope = gradient_of_sums(of_sums, centre)
        of_x = torch.empty_like(x)
        for piece in pieces(x):
            part = torch.addcmul(level, x[piece].to(centre.dtype), slope)
            if live is not None:
                part.masked_fill_(~live[piece, None], 0)
            torch.add(part, gradient[piece], out=of_x[piece])
        return of_x, None, None


def gradient_of_sums(of_sums: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Returns level and slope, [C] each: x's gradient is level + slope x by those of `_ColumnSums`' sums, [2 C]."""
    of_sum, of_square = of_sums.chunk(2)
    slope = 2 * of_square
    return of_sum - slope * centre, slope


class BatchNorm(nn.Module):
    """Batch norm is `Standardise`, then a learned scale and shift per column (Ioffe & Szegedy, ICML 2015).

    It equals torch's BatchNorm1d, but for padding and ranks.
    """

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1, padded: bool = True) -> None:
        super().__init__()
        self.moments = Standardise(width, eps=eps, momentum=momentum, padded=padded)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, C] -> [n, C]."""
        return torch.addcmul(self.bias.to(x.dtype), self.moments(x), self.weight.to(x.dtype))
