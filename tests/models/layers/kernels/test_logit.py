"""The compiled logit beside its torch form in float64, and beside itself on more threads and other processors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.logit import Logit
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, columns: int, dtype: torch.dtype, bias: bool = True) -> tuple[Logit, Tensor, Tensor]:
    torch.manual_seed(columns)
    return Logit(columns, 1, bias=bias), torch.randn(rows, columns).to(dtype), torch.randn(rows, 1)


@settings(max_examples=40)
@given(
    rows=st.sampled_from([0, 1, 9, 300]),
    columns=st.sampled_from([1, 15, 16, 17, 100, 400]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias=st.booleans(),
)
def test_equals_the_torch_form_in_float64(rows: int, columns: int, dtype: torch.dtype, bias: bool) -> None:
    """bf16 is what comes in, and the precision of its gradient; logits and weights are fp32."""
    layer, x, gradient = drawn(rows, columns, dtype, bias)
    found = computed(layer, Logit.__call__, [x], gradient)
    expected = computed(layer.double(), Logit.__call__, [x.double()], gradient)
    assert [f.dtype for f in found[:2]] == [torch.float32, dtype]
    assert_near(found[:1] + found[2:], expected[:1] + expected[2:], 1e-5)
    assert_near(found[1:2], expected[1:2], 1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype) -> None:
    layer, x, gradient = drawn(2000, 70, dtype)
    with set_to():
        expected = computed(layer, Logit.__call__, [x], gradient)
    for form in FORMS:
        with set_to(**form):
            found = computed(layer, Logit.__call__, [x], gradient)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(computed(layer, Logit.__call__, [x], gradient), expected, 1e-5)
