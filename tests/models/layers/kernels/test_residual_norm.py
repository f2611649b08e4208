"""The compiled layer norm of a sum beside its torch form in float64, and beside itself on more threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shardrec.models.layers.residual_norm import residual_norm
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, columns: int, seed: int) -> tuple[nn.LayerNorm, list[Tensor], Tensor]:
    """A norm with a weight and bias of its own, what it is given, and the gradient of what it returns."""
    draw = torch.Generator().manual_seed(seed)
    norm = nn.LayerNorm(columns)
    for parameter in norm.parameters():
        parameter.detach().copy_(torch.randn(columns, generator=draw))
    x, added, gradient = (torch.randn(rows, columns, generator=draw) for _ in range(3))
    return norm, [3 * x + 1, added], gradient


@settings(max_examples=60)
@given(
    rows=st.sampled_from([0, 1, 15, 300]),
    columns=st.sampled_from([2, 3, 15, 16, 17, 64, 70]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 9),
)
def test_equals_the_torch_form_in_float64(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    norm, (x, added), gradient = drawn(rows, columns, seed)
    found = computed(norm, residual_norm, [x, added.to(dtype)], gradient)
    expected = computed(norm.double(), residual_norm, [x.double(), added.to(dtype).double()], gradient)
    assert found[0].dtype == found[1].dtype == torch.float32 and found[2].dtype == dtype
    # of two columns, the variance may be next to nothing
    assert_near(found, expected, 1e-2 if dtype == torch.bfloat16 or columns < 4 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype) -> None:
    """And to rounding with any instructions."""
    norm, (x, added), gradient = drawn(3000, 35, 1)
    inputs = [x, added.to(dtype)]
    with set_to():
        expected = computed(norm, residual_norm, inputs, gradient)
    for form in FORMS:
        with set_to(**form):
            found = computed(norm, residual_norm, inputs, gradient)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(computed(norm, residual_norm, inputs, gradient), expected, 1e-2)
