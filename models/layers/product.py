"""Product signals between fields (Qu et al., ICDM 2016, section III)."""

from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Triangle(nn.Module):
    """The entries (i, j), i <= j, of symmetric matrices of `size` rows, row by row: size (size + 1) / 2 of them."""

    first: Tensor
    second: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(size, size)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.size, self.entries = size, len(first)

    def forward(self, matrix: Tensor) -> Tensor:
        """[B, size, size] -> [B, entries]."""
        return matrix.flatten(1).index_select(1, self.first * self.size + self.second)

    def outer(self, x: Tensor) -> Tensor:
        """Of x x^T: [B, size] -> [B, entries], without the matrix."""
        first, second = self.split(x)
        return first * second

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors of `outer`'s entries: [B, size] -> twice [B, entries]."""
        return x.index_select(1, self.first), x.index_select(1, self.second)


class InnerProducts(nn.Module):
    """p_ij = <f_i, f_j>, i <= j: [B, F, D] -> [B, F (F + 1) / 2]."""

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.triangle = Triangle(num_fields)
        self.width = self.triangle.entries

    def forward(self, field: Tensor) -> Tensor:
        return self.triangle(field @ field.transpose(1, 2))


class FactorisedInnerProducts(nn.Module):
    """l_p^n = <theta^n theta^nT, p> = ||sum_i theta_i^n f_i||^2: [B, F, D] -> [B, out] (IPNN, eqs. 9 to 11).

    Computed from p: the right-hand side needs a [B, D, out], and took three to eight times as long on a CPU.
    """

    def __init__(self, num_fields: int, out: int) -> None:
        super().__init__()
        self.products = InnerProducts(num_fields)
        self.weight = nn.Parameter(torch.empty(out, num_fields))  # theta
        nn.init.uniform_(self.weight, -(num_fields**-0.5), num_fields**-0.5)

    def forward(self, field: Tensor) -> Tensor:
        first, second = self.products.triangle.first, self.products.triangle.second
        pairs = self.weight.index_select(1, first) * self.weight.index_select(1, second)
        return F.linear(self.products(field), torch.where(first == second, pairs, 2 * pairs))


class PooledInnerProducts(nn.Module):
    """The mean, or the largest, of every field's inner products: [B, F, D] -> [B, F]."""

    def __init__(self, num_fields: int, pooling: Literal["mean", "max"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.width = num_fields

    def forward(self, field: Tensor) -> Tensor:
        if self.pooling == "mean":
            return (field * field.mean(1, keepdim=True)).sum(2)
        return (field @ field.transpose(1, 2)).amax(2)


class OuterProducts(nn.Module):
    """All p_ij = f_i f_j^T: the distinct entries of z z^T, z = [f_1; ...; f_F]: [B, F, D] -> [B, FD (FD + 1) / 2]."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.triangle = Triangle(num_fields * dim)
        self.width = self.triangle.entries

    def forward(self, field: Tensor) -> Tensor:
        return self.triangle.outer(field.flatten(1))


class PooledOuterProducts(nn.Module):
    """Pairs' outer products pooled entrywise, i = j included: [B, F, D] -> [B, D (D + 1) / 2].

    superposition: sum_ij f_i f_j^T = f_S f_S^T, f_S = sum_i f_i (OPNN, eq. 13). max: as the largest product of two
    numbers is one of their ranges' ends, no pair is formed there either.
    """

    def __init__(self, dim: int, pooling: Literal["superposition", "max"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.triangle = Triangle(dim)
        self.width = self.triangle.entries

    def forward(self, field: Tensor) -> Tensor:
        if self.pooling == "superposition":
            return self.triangle.outer(field.sum(1))
        low, high = self.triangle.split(field.amin(1)), self.triangle.split(field.amax(1))
        return torch.stack([a * b for a, b in product((low[0], high[0]), (low[1], high[1]))]).amax(0)
