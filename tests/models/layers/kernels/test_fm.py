"""The compiled terms of an FM beside their torch form in float64, and beside themselves on more threads."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.fm import fm_terms, fm_terms_and_factors
from tests.models.layers.kernels.forms import FORMS, assert_near, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, fields: int, columns: int, seed: int, stored: int = 0) -> tuple[Tensor, Tensor]:
    """Fields, in rows of so many numbers more than they have, and dense columns among others."""
    draw = torch.Generator().manual_seed(seed)
    field = torch.randn(rows, fields, 1 + columns + stored, generator=draw)[:, :, : 1 + columns]
    return field, torch.randn(rows, 9, generator=draw)[:, 2:5]


def terms_and_gradients(field: Tensor, dense: Tensor, asked: tuple[bool, ...]) -> list[Tensor]:
    """All terms, and the gradients of fields and dense columns by way of those that are asked for."""
    field, dense = field.detach().requires_grad_(), dense.detach().requires_grad_()
    found = fm_terms_and_factors(field, dense)
    draw = torch.Generator().manual_seed(9)
    gradients = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in found]
    used: list[Any] = [(x, g.to(x.dtype)) for x, g, wanted in zip(found, gradients, asked, strict=True) if wanted]
    by = torch.autograd.grad([x for x, _ in used], [field, dense], [g for _, g in used], allow_unused=True)
    return [*(x.detach() for x in found), *(x for x in by if x is not None)]


@settings(max_examples=40)
@given(
    rows=st.sampled_from([0, 1, 7, 130]),
    fields=st.integers(1, 5),
    columns=st.sampled_from([1, 8, 15, 16, 17, 40]),
    stored=st.integers(0, 3),
    asked=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
    seed=st.integers(0, 9),
)
def test_equals_the_torch_form_in_float64(
    rows: int, fields: int, columns: int, stored: int, asked: tuple[bool, ...], seed: int
) -> None:
    field, dense = drawn(rows, fields, columns, seed, stored)
    expected = terms_and_gradients(field.double(), dense.double(), asked)
    assert_near(terms_and_gradients(field, dense, asked), expected, 1e-5)
    first, pairs = fm_terms(field)
    assert_near([first, pairs], expected[:2], 1e-5)


def test_columns_are_in_the_precision_of_autocast() -> None:
    field, dense = drawn(50, 3, 16, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = terms_and_gradients(field, dense, (True, True, True))
    assert [x.dtype for x in found] == [torch.float32] * 2 + [torch.bfloat16] + [torch.float32] * 2
    assert_near(found, terms_and_gradients(field.double(), dense.double(), (True, True, True)), 1e-2)


def test_same_bits_on_any_number_of_threads() -> None:
    field, dense = drawn(3000, 6, 16, 1)
    with set_to():
        expected = terms_and_gradients(field, dense, (True, True, True))
    for form in FORMS:
        with set_to(**form):
            found = terms_and_gradients(field, dense, (True, True, True))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(terms_and_gradients(field, dense, (True, True, True)), expected, 1e-5)
