"""Product signals against double loops over fields."""

import numpy as np
import pytest
import torch
from torch import nn

from models.layers.product import (
    FactorisedInnerProducts,
    InnerProducts,
    OuterProducts,
    PooledInnerProducts,
    PooledOuterProducts,
)
from tests.models.cases import randomise

ROWS, FIELDS, DIM = 4, 5, 3


def fields() -> torch.Tensor:
    return torch.randn(ROWS, FIELDS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def inner(f: np.ndarray) -> np.ndarray:
    """p of one row: [F, F]."""
    p = np.zeros((FIELDS, FIELDS))
    for i in range(FIELDS):
        for j in range(FIELDS):
            p[i, j] = sum(f[i, d] * f[j, d] for d in range(DIM))
    return p


def outer(f: np.ndarray) -> np.ndarray:
    """p of one row: [F, F, D, D]."""
    p = np.zeros((FIELDS, FIELDS, DIM, DIM))
    for i in range(FIELDS):
        for j in range(FIELDS):
            for a in range(DIM):
                for b in range(DIM):
                    p[i, j, a, b] = f[i, a] * f[j, b]
    return p


def upper(matrix: np.ndarray) -> np.ndarray:
    return np.array([matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))])


def check(layer: nn.Module, expected: list[np.ndarray]) -> None:
    output = layer(fields())
    assert output.shape[1] == getattr(layer, "width", output.shape[1])
    torch.testing.assert_close(output, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)


def test_inner_products_are_the_upper_triangle() -> None:
    check(InnerProducts(FIELDS), [upper(inner(f)) for f in fields().numpy()])


def test_factorised_products_equal_both_sides_of_their_equation() -> None:
    layer = FactorisedInnerProducts(FIELDS, 6).double()
    randomise(layer)
    theta = layer.weight.detach().numpy()
    frobenius = [np.array([(np.outer(t, t) * inner(f)).sum() for t in theta]) for f in fields().numpy()]
    norms = [np.array([(sum(t[i] * f[i] for i in range(FIELDS)) ** 2).sum() for t in theta]) for f in fields().numpy()]
    check(layer, frobenius)
    check(layer, norms)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_inner_products(pooling: str) -> None:
    layer = PooledInnerProducts(FIELDS, pooling)  # type: ignore[arg-type]
    check(layer, [getattr(inner(f), pooling)(1) for f in fields().numpy()])


def test_outer_products_hold_every_distinct_entry_once() -> None:
    layer = OuterProducts(FIELDS, DIM)
    whole = [outer(f).transpose(0, 2, 1, 3).reshape(FIELDS * DIM, FIELDS * DIM) for f in fields().numpy()]
    check(layer, [upper(matrix) for matrix in whole])


def test_superposition_is_the_sum_of_all_outer_products() -> None:
    check(PooledOuterProducts(DIM, "superposition"), [upper(outer(f).sum((0, 1))) for f in fields().numpy()])


def test_the_largest_outer_products() -> None:
    check(PooledOuterProducts(DIM, "max"), [upper(outer(f).max((0, 1))) for f in fields().numpy()])
