"""Product signals against double loops over fields."""

from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from torch import nn

from shardrec.models.layers.product import (
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


def test_inner_products_of_different_fields_leave_out_the_diagonal() -> None:
    strict = [np.array([inner(f)[i, j] for i, j in combinations(range(FIELDS), 2)]) for f in fields().numpy()]
    check(InnerProducts(FIELDS, squares=False), strict)


@pytest.mark.parametrize("squares", [True, False])
def test_the_gradient_of_inner_products_is_that_of_the_double_loop(squares: bool) -> None:
    field, layer = fields().requires_grad_(), InnerProducts(FIELDS, squares=squares)
    pairs = (combinations_with_replacement if squares else combinations)(range(FIELDS), 2)
    loops = torch.stack([(field[:, i] * field[:, j]).sum(1) for i, j in pairs], 1)
    weight = torch.randn(loops.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad((loops * weight).sum(), field)
    (found,) = torch.autograd.grad((layer(field) * weight).sum(), field)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("squares", [True, False])
def test_inner_products_train_under_bf16(squares: bool) -> None:
    field, layer = fields().float().requires_grad_(), InnerProducts(FIELDS, squares=squares)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = layer(field)
    (found,) = torch.autograd.grad(products.float().sum(), field)
    (expected,) = torch.autograd.grad(layer(field).sum(), field)
    assert products.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_what_products_are_gathered_by_is_in_no_checkpoint() -> None:
    assert not InnerProducts(FIELDS).state_dict()


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
