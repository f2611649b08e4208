"""The compiled sums of rows' positions beside their torch form in float64, and beside themselves on more threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.jagged_sum import jagged_sum, segment_sum
from tests.models.layers.kernels.forms import FORMS, assert_near, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, columns: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Values, weights, the row of each position, and offsets; some rows are empty."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 9, (rows,), generator=draw)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    row, count = torch.arange(rows).repeat_interleave(lengths), int(lengths.sum())
    values, weights = torch.randn(count, columns, generator=draw), torch.randn(count, generator=draw)
    return values.to(dtype), weights.to(dtype), row, offsets


def sums_and_gradients(values: Tensor, weights: Tensor, row: Tensor, offsets: Tensor) -> list[Tensor]:
    values, weights = values.detach().requires_grad_(), weights.detach().requires_grad_()
    found = jagged_sum(values, weights, row, offsets)
    draw = torch.Generator().manual_seed(9)
    gradient = torch.randn(found.shape, generator=draw, dtype=torch.float64).to(found.dtype)
    return [found.detach(), *torch.autograd.grad(found, [values, weights], gradient)]


@settings(max_examples=40)
@given(
    rows=st.sampled_from([1, 7, 100]),
    columns=st.sampled_from([1, 15, 16, 17, 32, 70]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 9),
)
def test_equals_the_torch_form_in_float64(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    values, weights, row, offsets = drawn(rows, columns, seed, dtype)
    found = sums_and_gradients(values, weights, row, offsets)
    expected = sums_and_gradients(values.double(), weights.double(), row, offsets)
    assert all(x.dtype == dtype for x in found)
    assert_near(found, expected, 2e-2 if dtype == torch.bfloat16 else 1e-5)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert_near([segment_sum(values, offsets)], [segment_sum(values.double(), offsets)], tolerance)


def test_same_bits_on_any_number_of_threads() -> None:
    given_ = drawn(2000, 32, 1, torch.float32)
    with set_to():
        expected = sums_and_gradients(*given_)
    for form in FORMS:
        with set_to(**form):
            assert all(torch.equal(a, b) for a, b in zip(sums_and_gradients(*given_), expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(sums_and_gradients(*given_), expected, 1e-5)
