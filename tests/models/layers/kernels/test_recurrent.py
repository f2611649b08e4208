"""The compiled GRU beside its torch form in float64, and beside itself on more threads and other processors."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.gru_cells import CompiledCells, cells_of
from shardrec.models.layers.packing import pack_steps
from shardrec.models.layers.recurrent import GRU, Update
from tests.models.layers.jagged import rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()
    assert isinstance(cells_of(*(torch.zeros(1, 1) for _ in range(3)), None), CompiledCells)


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


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    inputs=st.sampled_from([1, 5]),
    hidden=st.sampled_from([1, 4, 16, 17, 40]),
    update=st.sampled_from(get_args(Update)),
)
def test_equals_the_torch_form_in_float64(lengths: list[int], inputs: int, hidden: int, update: Update) -> None:
    layer, given_inputs, gradient = drawn(lengths, inputs, hidden, update)
    found = computed(layer, call, given_inputs, gradient)
    doubles = [x.double() if x.is_floating_point() else x for x in given_inputs]
    assert_near(found, computed(layer.double(), call, doubles, gradient), 2e-5)


@pytest.mark.parametrize("update", get_args(Update))
def test_same_bits_on_any_number_of_threads(update: Update) -> None:
    """Of a step, whose products are torch's own; and to rounding with any instructions."""
    draw = torch.Generator().manual_seed(0)
    count, hidden = 900, 35

    def step() -> list[Tensor]:
        draw.manual_seed(1)
        gates = torch.randn(count, hidden * (1 if update == "attention" else 2), generator=draw)
        arrays = [torch.randn(count, hidden, generator=draw) for _ in range(6)]
        candidates, of_states, before, after, gradient, later = arrays
        attention = None if update == "learned" else torch.rand(count, generator=draw)
        cells = CompiledCells(gates, candidates, of_states, attention)
        cells.forward(slice(0, count), before, after)
        found = torch.empty(count, gates.shape[1] + hidden), torch.empty(count, hidden), torch.empty(count)
        cells._kernel.backward(slice(0, count), before, gradient, later, *found)
        return [gates, *arrays, *found[:2], *([] if attention is None else [*found[2:]])]

    with set_to():
        expected = step()
    for form in FORMS:
        with set_to(**form):
            assert all(torch.equal(a, b) for a, b in zip(step(), expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(step(), expected, 1e-5)
