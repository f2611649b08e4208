"""Compiled attention within rows beside its torch form in float64, and beside itself on more threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.layers.causal import CausalBlock
from shardrec.models.layers.kernels.row_attention import RowAttentionKernel
from shardrec.models.layers.packing import regroup
from shardrec.models.layers.transformer import TransformerLayer, attended_rows
from tests.models.layers.jagged import rows
from tests.models.layers.kernels.forms import FORMS, assert_near, computed, is_compiled, set_to

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def compiled() -> None:
    is_compiled()


def call(layer: TransformerLayer, x: Tensor, lengths: Tensor) -> Tensor:
    """What the layer attends to, before it is projected."""
    of = rows(lengths.tolist())
    buckets = attended_rows(x, of.lengths, of.row, of.offsets)
    result, weights = layer._attend(regroup(x, buckets.source, buckets.reverse), buckets)
    assert (weights == ()) == (x.dtype == torch.float32)
    return regroup(result, buckets.reverse, buckets.source)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any),
    heads=st.sampled_from([1, 2, 3]),
    columns=st.sampled_from([1, 4, 17]),
    causal=st.booleans(),
    bf16=st.booleans(),
)
def test_equals_the_torch_form_in_float64(
    lengths: list[int], heads: int, columns: int, causal: bool, bf16: bool
) -> None:
    torch.manual_seed(0)
    layer = (CausalBlock if causal else TransformerLayer)(heads * columns, heads, 5)
    x, gradient = (torch.randn(sum(lengths), heads * columns) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = computed(layer, call, [x, torch.tensor(lengths)], gradient)
    expected = computed(layer.double(), call, [x.double(), torch.tensor(lengths)], gradient)
    assert_near(found, expected, 1e-1 if bf16 else 2e-5)


@pytest.mark.parametrize("layer_class", [TransformerLayer, CausalBlock])
def test_same_bits_on_any_number_of_threads(layer_class: type[TransformerLayer]) -> None:
    """And to rounding with any instructions."""
    draw = torch.Generator().manual_seed(0)
    of = rows([50, 3, 0, 17, 16, 1] * 40)
    query, key, value, gradient = (torch.randn(len(of.row), 36, generator=draw) for _ in range(4))

    def run() -> list[Tensor]:
        kernel = RowAttentionKernel(query, key, value, of.offsets, 3, causal=layer_class.causal)
        attended, sums = kernel.forward()
        return [attended, sums, *kernel.backward(attended, sums, gradient)]

    with set_to():
        expected = run()
    for form in FORMS:
        with set_to(**form):
            assert all(torch.equal(a, b) for a, b in zip(run(), expected, strict=True)), form
    for level in (0, 1):
        with set_to(level=level):
            assert_near(run(), expected, 1e-5)


def test_large_scores_do_not_overflow() -> None:
    torch.manual_seed(0)
    layer, lengths = TransformerLayer(8, 2, 5), torch.tensor([3, 20, 1])
    x, gradient = (torch.randn(24, 8) for _ in range(2))
    found = computed(layer, call, [20 * x, lengths], gradient)
    assert_near(found, computed(layer.double(), call, [20 * x.double(), lengths], gradient), 1e-3)
