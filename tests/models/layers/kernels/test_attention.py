"""Compiled attention over pairs beside its torch form in float64, and beside itself on more threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.pair_attention import PairAttention
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, fields: int, columns: int, units: int) -> tuple[PairAttention, Tensor, Tensor]:
    """A layer, the rows of tables whose last columns are factors, and the gradient of what is pooled."""
    torch.manual_seed(0)
    layer = PairAttention(fields, columns, units)
    torch.nn.init.normal_(layer.hidden.bias)
    return layer, torch.randn(rows, fields, 1 + columns), torch.randn(rows, columns)


def call(layer: PairAttention, field: Tensor) -> Tensor:
    return layer(field[:, :, 1:])


@settings(max_examples=40)
@given(
    rows=st.sampled_from([0, 1, 15, 16, 33, 300]),
    fields=st.integers(1, 6),
    columns=st.sampled_from([1, 4, 8, 17]),
    units=st.sampled_from([1, 3, 8, 19]),
    bf16=st.booleans(),
)
def test_equals_the_torch_form_in_float64(rows: int, fields: int, columns: int, units: int, bf16: bool) -> None:
    """In fp32 under autocast too."""
    layer, field, gradient = drawn(rows, fields, columns, units)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = computed(layer, call, [field], gradient)
    expected = computed(layer.double(), call, [field.double()], gradient)
    assert_near(found, expected, 2e-5)


def test_large_scores_do_not_overflow() -> None:
    layer, field, gradient = drawn(20, 5, 4, 3)
    found = computed(layer, call, [100 * field], gradient)
    assert_near(found, computed(layer.double(), call, [100 * field.double()], gradient), 1e-4)


def test_a_number_that_is_none_spoils_its_own_row() -> None:
    layer, field, _ = drawn(20, 5, 4, 3)
    field[7, 2, 3] = torch.nan
    assert call(layer, field).isnan().any(1).nonzero().flatten().tolist() == [7]


def test_same_bits_on_any_number_of_threads() -> None:
    """And to rounding with any instructions."""
    layer, field, gradient = drawn(700, 6, 11, 9)
    with set_to():
        expected = computed(layer, call, [field], gradient)
    for form in FORMS:
        with set_to(**form):
            found = computed(layer, call, [field], gradient)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(computed(layer, call, [field], gradient), expected, 1e-5)
