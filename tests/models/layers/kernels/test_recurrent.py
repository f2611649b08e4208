"""The compiled GRU beside its torch form in float64, and beside itself on more threads and other processors."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers import recurrent
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.layers.packing import pack_steps
from shardrec.models.layers.recurrent import GRU, Update
from tests.models.layers.jagged import rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def drawn(lengths: list[int], inputs: int, hidden: int, update: Update) -> tuple[GRU, list[Tensor], Tensor]:
    """A layer, what it is given in the order of the batch (and the lengths), and the gradient of what it returns."""
    torch.manual_seed(0)
    count = sum(lengths)
    x = [torch.randn(count, inputs), *([] if update == "learned" else [torch.rand(count)])]
    return GRU(inputs, hidden, update), [*x, torch.tensor(lengths)], torch.randn(count, hidden)


def call(layer: GRU, x: Tensor, *more: Tensor) -> Tensor:
    *attention, lengths = more
    given_rows = rows(lengths.tolist())
    packing = pack_steps(given_rows.lengths, given_rows.row, given_rows.offsets)
    return packing.unpack(layer(packing.pack(x), packing, *map(packing.pack, attention)))


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=70),
    inputs=st.sampled_from([1, 5, 16, 33]),
    hidden=st.sampled_from([1, 4, 16, 17, 40]),
    update=st.sampled_from(get_args(Update)),
    bf16=st.booleans(),
)
def test_equals_the_torch_form_in_float64(
    lengths: list[int], inputs: int, hidden: int, update: Update, bf16: bool
) -> None:
    layer, given_inputs, gradient = drawn(lengths, inputs, hidden, update)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = computed(layer, call, given_inputs, gradient)
    doubles = [x.double() if x.is_floating_point() else x for x in given_inputs]
    assert all(x.dtype == torch.float32 for x in found)
    assert_near(found, computed(layer.double(), call, doubles, gradient), 5e-2 if bf16 else 2e-5)


def test_is_what_a_gru_is_computed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "_CompiledRecurrence", Refused)
    layer, given_inputs, _ = drawn([3, 1], 4, 4, "learned")
    with pytest.raises(AssertionError, match="called"):
        call(layer, *given_inputs)
    with torch_alone():
        call(layer, *given_inputs)
    call(layer.double(), given_inputs[0].double(), given_inputs[1])
    for inputs, hidden in ((257, 4), (4, 257)):
        wide, given_inputs, _ = drawn([3, 1], inputs, hidden, "learned")
        call(wide, *given_inputs)


class Refused:
    @staticmethod
    def apply(*given: object) -> None:
        raise AssertionError("called")


def test_states_without_gradients_are_the_same() -> None:
    """Where nothing is kept for them."""
    for update in get_args(Update):
        layer, given_inputs, _ = drawn([4, 0, 40, 7], 5, 20, update)
        with torch.no_grad():
            alone = call(layer, *given_inputs)
        assert torch.equal(alone, call(layer, *given_inputs).detach())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("update", get_args(Update))
def test_same_bits_on_any_number_of_threads(update: Update, bf16: bool) -> None:
    """And to rounding with any instructions, and in bf16 near to fp32."""
    lengths = torch.randint(0, 12, (1200,), generator=torch.Generator().manual_seed(1)).tolist()
    layer, given_inputs, gradient = drawn(lengths, 9, 35, update)
    gradient /= len(gradient)

    def run(*, bf16: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return computed(layer, call, given_inputs, gradient)

    with set_to():
        whole, expected = run(bf16=False), run(bf16=bf16)
    for form in FORMS:
        with set_to(**form):
            assert all(torch.equal(a, b) for a, b in zip(run(bf16=bf16), expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(run(bf16=bf16), expected, 2e-2 if bf16 else 1e-5)
    assert_near(expected, whole, 2e-2)
