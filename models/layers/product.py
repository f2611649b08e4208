"""Products of fields are the signals of product networks (Qu et al., ICDM 2016, section III)."""

from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Triangle(nn.Module):
    """A triangle has the entries (i, j), i <= j, of x x^T, row by row, and never makes the matrix."""

    first: Tensor
    second: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(size, size)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.entries = len(first)

    def forward(self, x: Tensor) -> Tensor:
        """[B, size] -> [B, size (size + 1) / 2]."""
        first, second = self.split(x)
        return first * second

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both factors of the entries: [B, size] -> twice [B, entries]."""
        return x.index_select(1, self.first), x.index_select(1, self.second)


class InnerProducts(nn.Module):
    """p_ij = <f_i, f_j> of all pairs, row by row: i <= j, without `squares` i < j.

    One batched product and one gather; the gradient is a gather and one product too, half of what autograd would do.
    """

    first: Tensor
    second: Tensor
    slots: Tensor

    def __init__(self, num_fields: int, *, squares: bool = True) -> None:
        super().__init__()
        first, second = torch.triu_indices(num_fields, num_fields, 0 if squares else 1)
        self.width = len(first)
        slots = torch.full((num_fields, num_fields), self.width)  # where no product is, a zero behind the last is read
        slots[first, second] = slots[second, first] = torch.arange(self.width)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.register_buffer("slots", slots, persistent=False)

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, F (F + 1) / 2], without `squares` [B, F (F - 1) / 2]."""
        return _InnerProducts.apply(field, self.first * field.shape[1] + self.second, self.slots)


class _InnerProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, pairs: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(field, slots)
        return torch.bmm(field, field.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        field, slots = ctx.saved_tensors
        both = F.pad(gradient, (0, 1)).index_select(1, slots.flatten()).view(-1, *slots.shape)
        both.diagonal(dim1=1, dim2=2).mul_(2)
        return torch.bmm(both.to(field.dtype), field), None, None


class FactorisedInnerProducts(nn.Module):
    """l_p^n = <theta^n theta^nT, p> = ||sum_i theta_i^n f_i||^2 (IPNN, eqs. 9 to 11).

    Computed from p: the right-hand side needs a [B, D, out], and took three to eight times as long on a CPU.
    """

    def __init__(self, num_fields: int, out: int) -> None:
        super().__init__()
        self.products = InnerProducts(num_fields)
        self.weight = nn.Parameter(torch.empty(out, num_fields))  # theta
        nn.init.uniform_(self.weight, -(num_fields**-0.5), num_fields**-0.5)

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, out]."""
        first, second = self.products.first, self.products.second
        pairs = self.weight.index_select(1, first) * self.weight.index_select(1, second)
        return F.linear(self.products(field), torch.where(first == second, pairs, 2 * pairs))


class PooledInnerProducts(nn.Module):
    """Pooled inner products are the mean, or the largest, of every field's products with all fields."""

    def __init__(self, num_fields: int, pooling: Literal["mean", "max"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.width = num_fields

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, F]."""
        if self.pooling == "mean":
            return (field * field.mean(1, keepdim=True)).sum(2)
        return (field @ field.transpose(1, 2)).amax(2)


class OuterProducts(nn.Module):
    """p_ij = f_i f_j^T of all pairs: the distinct entries of z z^T, z = [f_1; ...; f_F]."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.triangle = Triangle(num_fields * dim)
        self.width = self.triangle.entries

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, F D (F D + 1) / 2]."""
        return self.triangle(field.flatten(1))


class PooledOuterProducts(nn.Module):
    """Pooled outer products pool those of all pairs entrywise, i = j included.

    superposition: sum_ij f_i f_j^T = f_S f_S^T, f_S = sum_i f_i (OPNN, eq. 13). max: as the largest product of two
    numbers is one of their ranges' ends, no pair is formed there either.
    """

    def __init__(self, dim: int, pooling: Literal["superposition", "max"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.triangle = Triangle(dim)
        self.width = self.triangle.entries

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, D (D + 1) / 2]."""
        if self.pooling == "superposition":
            return self.triangle(field.sum(1))
        low, high = self.triangle.split(field.amin(1)), self.triangle.split(field.amax(1))
        return torch.stack([a * b for a, b in product((low[0], high[0]), (low[1], high[1]))]).amax(0)
