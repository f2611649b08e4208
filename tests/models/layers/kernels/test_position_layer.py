"""Compiled layers of an activation unit beside their torch form in float64, and beside itself on threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shardrec.models.layers import position_layers
from shardrec.models.layers.activation_unit import ActivationUnit
from shardrec.models.layers.activations import Activation, Dice
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.layers.kernels.position_layer import Pairs
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.layers.position_layers import over_positions
from tests.models.layers.jagged import rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def call(layer: ActivationUnit, events: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    of = rows(lengths.tolist())
    return layer(events, target, of.row, of.offsets)


def drawn(
    lengths: list[int], width: int, hidden: tuple[int, ...], seed: int, activation: Activation = "dice"
) -> tuple[ActivationUnit, list[Tensor]]:
    """A unit with moments and alphas of its own, and what it is given."""
    draw = torch.manual_seed(seed)
    unit = ActivationUnit(width, MLPConfig(hidden=hidden, activation=activation))
    for layer in unit.modules():
        if isinstance(layer, Dice):
            for tensor in (layer.alpha.detach(), layer.moments.running_mean):
                tensor.copy_(torch.randn(len(tensor), generator=draw))
            layer.moments.running_var.copy_(torch.rand(len(layer.alpha), generator=draw) + 0.1)
    inputs = [torch.randn(n, width, generator=draw) for n in (sum(lengths), len(lengths))]
    return unit, [*inputs, torch.tensor(lengths)]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 7, 63, 64, 65, 130]), min_size=1, max_size=9),
    width=st.sampled_from([1, 4, 8, 16, 17, 32]),
    hidden=st.sampled_from([(1,), (5, 3), (16, 33), (64, 16), (48, 17, 2)]),
    training=st.booleans(),
    seed=st.integers(0, 9),
)
def test_equals_the_torch_form_in_float64(
    lengths: list[int], width: int, hidden: tuple[int, ...], training: bool, seed: int
) -> None:
    """About as near as torch's fp32, gradients and moments too, also where moments take most of a gradient away."""
    unit, inputs = drawn([*lengths, 200], width, hidden, seed)
    gradient = torch.randn(len(inputs[0]), generator=torch.Generator().manual_seed(seed))
    found = computed(unit.train(training), call, inputs, gradient)
    with torch_alone():
        by_torch = computed(unit, call, inputs, gradient)
    expected = computed(unit.double(), call, [inputs[0].double(), inputs[1].double(), inputs[2]], gradient)
    assert error_of(found, expected) <= 10 * error_of(by_torch, expected) + 1e-3


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    width=st.sampled_from([1, 4, 16, 17, 40]),
    bf16=st.booleans(),
)
def test_the_first_layer_equals_its_torch_form_in_float64(lengths: list[int], width: int, bf16: bool) -> None:
    """Where another activation follows, which is torch's."""
    unit, inputs = drawn(lengths, width, (5, 3), 0, "sigmoid")
    gradient = torch.randn(sum(lengths))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = computed(unit, call, inputs, gradient)
    expected = computed(unit.double(), call, [inputs[0].double(), inputs[1].double(), inputs[2]], gradient)
    assert found[1].dtype == found[2].dtype == torch.float32
    assert_near(found, expected, 5e-2 if bf16 else 2e-5)


def error_of(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest error of an array, as a share of its largest number or of 1."""
    pairs = [(one, exact) for one, exact in zip(found, expected, strict=True) if len(exact)]
    return max(((one - exact).abs().max() / exact.abs().max().clamp(min=1)).item() for one, exact in pairs)


def test_is_what_an_activation_unit_with_dice_is_computed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        position_layers._PositionLayers, "apply", lambda *given: called.append(given) or torch.ones(3, 1)
    )
    unit, inputs = drawn([3], 4, (5,), 0)
    assert call(unit, *inputs).tolist() == [1, 1, 1] and len(called) == 1


def test_no_positions_at_all() -> None:
    unit, inputs = drawn([0, 0], 4, (5, 3), 0)
    inputs = [x.requires_grad_(x.is_floating_point()) for x in inputs]
    scores = call(unit, *inputs)
    scores.sum().backward()
    assert scores.shape == (0,) and inputs[1].grad is not None and not inputs[1].grad.any()
    assert all(not x.isnan().any() for x in unit.buffers())


class Scored(nn.Module):
    """The kernel's own part of a unit: torch's products may have other bits on more threads."""

    def __init__(self, unit: ActivationUnit) -> None:
        super().__init__()
        self.layers = nn.ModuleList(list(unit.mlp.layers)[1:])

    def forward(self, values: Tensor, vectors: Tensor, of_row: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
        offsets = rows(lengths.tolist()).offsets
        return over_positions(Pairs(values, vectors), of_row, weight, offsets, list(self.layers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype) -> None:
    """And to rounding with any instructions, and in bf16 near to fp32."""
    lengths, hidden = [5, 0, 300, 7, 1, 2, 4001] * 3, (35, 16)
    unit, (values, vectors, counts) = drawn(lengths, 9, hidden, 1)
    of_row, weight = torch.randn(len(lengths), hidden[0]), torch.randn(hidden[0], 18)
    gradient = torch.randn(len(values), 1) / len(values)

    def run(of: Tensor) -> list[Tensor]:
        return computed(Scored(unit), Scored.__call__, [values, vectors, of, weight, counts], gradient)

    with set_to():
        whole, expected = run(of_row), run(of_row.to(dtype))
    for form in FORMS:
        with set_to(**form):
            found = run(of_row.to(dtype))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(run(of_row.to(dtype)), expected, 1e-2)
    assert_near(expected, whole, 5e-2)
