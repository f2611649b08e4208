"""The compiled Dice beside its torch form in float64, and beside itself on more threads and other processors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.activations import Dice
from shardrec.models.layers.moments import live_rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(rows: int, columns: int, seed: int) -> tuple[Dice, Tensor, Tensor]:
    """A layer with moments and alpha of its own, what it is given, and the gradient of what it returns."""
    draw = torch.Generator().manual_seed(seed)
    layer = Dice(columns)
    for tensor in (layer.alpha.detach(), layer.moments.running_mean):
        tensor.copy_(torch.randn(columns, generator=draw))
    layer.moments.running_var.copy_(torch.rand(columns, generator=draw) + 0.1)
    s, gradient = (torch.randn(rows, columns, generator=draw) for _ in range(2))
    return layer, 2 * s + 1, gradient


@settings(max_examples=60)
@given(
    rows=st.sampled_from([9, 15, 64, 257, 1030]),
    columns=st.sampled_from([1, 3, 15, 16, 17, 64, 70]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    training=st.booleans(),
    padding=st.booleans(),
    seed=st.integers(0, 9),
)
def test_equals_the_torch_form_in_float64(
    rows: int, columns: int, dtype: torch.dtype, training: bool, padding: bool, seed: int
) -> None:
    """With its gradients and moments; what stands in padding rows is in none of them."""
    layer, s, gradient = drawn(rows, columns, seed)
    s, gradient, layer = s.to(dtype), gradient.to(dtype), layer.train(training)
    live = None
    if padding:
        live = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.8
        live[:6] = True
    with live_rows(live):
        found = computed(layer, Dice.__call__, [s], gradient)
        expected = computed(layer.double(), Dice.__call__, [s.double()], gradient)
    assert found[0].dtype == found[1].dtype == dtype
    # of few rows, moments take most of a gradient away
    assert_near(found, expected, 1e-2 if dtype == torch.bfloat16 else 2e-5 if rows > 15 else 1e-4)


def test_what_stands_in_padding_rows_is_in_no_moment() -> None:
    layer, s, _ = drawn(40, 17, 0)
    s[7] = torch.nan
    live = torch.arange(40) != 7
    with live_rows(live):
        result = layer(s)
    assert result[live].isfinite().all() and all(x.isfinite().all() for x in layer.buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype) -> None:
    """And to rounding with any instructions."""
    layer, s, gradient = drawn(5000, 35, 1)
    with set_to():
        expected = computed(layer, Dice.__call__, [s.to(dtype)], gradient)
    for form in FORMS:
        with set_to(**form):
            found = computed(layer, Dice.__call__, [s.to(dtype)], gradient)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(computed(layer, Dice.__call__, [s.to(dtype)], gradient), expected, 1e-2)


def test_extreme_numbers_give_what_the_formula_gives() -> None:
    """Exponents beyond what exp can take, infinite ones, and numbers that are none."""
    layer = Dice(3).eval()
    torch.nn.init.constant_(layer.alpha, 0.5)
    s = torch.tensor([[1e4, -1e4, 0.0], [3e38, -3e38, 88.0], [torch.nan, -88.0, -87.0]])
    found = layer(s)
    torch.testing.assert_close(found, torch.where(s > 0, s, s / 2), rtol=1e-6, atol=0, equal_nan=True)


def test_no_rows() -> None:
    layer, s, gradient = drawn(0, 5, 0)
    for training in (True, False):
        result, of_s, *_, of_alpha = computed(layer.train(training), Dice.__call__, [s], gradient)[:3]
        assert result.shape == of_s.shape == (0, 5) and not of_alpha.any()


def test_backward_may_be_taken_twice() -> None:
    layer, s, gradient = drawn(20, 5, 0)
    result = layer(s.requires_grad_())
    one, other = (torch.autograd.grad(result, s, gradient, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)
