"""The compiled first layer of an activation unit beside its torch form in float64, and beside itself on threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers import pieces
from shardrec.models.layers.activation_unit import ActivationUnit
from shardrec.models.layers.kernels.pairs import PairKernel
from shardrec.models.layers.mlp import MLPConfig
from tests.models.layers.jagged import rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def call(layer: ActivationUnit, events: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    of = rows(lengths.tolist())
    return layer(events, target, of.row, of.offsets)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    width=st.sampled_from([1, 4, 16, 17, 40]),
    piece_bytes=st.sampled_from([1, 700, 1 << 19]),
    bf16=st.booleans(),
)
def test_equals_the_torch_form_in_float64(lengths: list[int], width: int, piece_bytes: int, bf16: bool) -> None:
    """Also where a piece ends within a row."""
    torch.manual_seed(0)
    layer = ActivationUnit(width, MLPConfig(hidden=(5, 3), activation="sigmoid"))
    inputs = [torch.randn(sum(lengths), width), torch.randn(len(lengths), width), torch.tensor(lengths)]
    gradient = torch.randn(sum(lengths))
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        found = computed(layer, call, inputs, gradient)
    expected = computed(layer.double(), call, [inputs[0].double(), inputs[1].double(), inputs[2]], gradient)
    assert found[1].dtype == found[2].dtype == torch.float32
    assert_near(found, expected, 5e-2 if bf16 else 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads_and_in_any_pieces(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    of = rows([5, 0, 300, 7, 1, 2] * 9)
    count, width = len(of.row), 35
    values, vectors = (torch.randn(n, width, generator=draw) for n in (count, len(of.lengths)))
    gradient = torch.randn(count, 2 * width, generator=draw).to(dtype)
    kernel = PairKernel(values, vectors, of.row, of.offsets)

    def run(step: int) -> list[Tensor]:
        parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        of_values, of_vectors = torch.empty_like(values), torch.zeros_like(vectors)
        for part in parts:
            kernel.gradients(part, gradient[part], of_values, of_vectors)
        return [torch.cat([kernel.inputs(part, dtype) for part in parts]), of_values, of_vectors]

    with set_to():
        expected = run(count)
    assert torch.equal(expected[0], torch.cat([values, values * vectors[of.row]], 1).to(dtype))
    for form in FORMS:
        with set_to(**form):
            assert all(torch.equal(a, b) for a, b in zip(run(111), expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(run(count), expected, 1e-5)
