"""Fresh rows by the compiled kernel beside the torch form, bit for bit, whatever the threads and instructions."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.models.kernels.sources import compiler
from shardrec.models.table_settings import TableInit
from shardrec.sharding.kernels.fresh import drawn_uniformly, renew
from shardrec.sharding.kernels.library import library
from shardrec.sharding.tables.first_values_by_id import draw_by_torch
from tests.kernel_settings import kernels_set_to
from tests.sharding.cases import table

FORMS: list[dict[str, int]] = [{}, {"threads": 3}, {"level": 0}, {"level": 1}]

set_to = partial(kernels_set_to, library)


@pytest.fixture(autouse=True, scope="module")
def _is_compiled() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    assert library() is not None


@settings(max_examples=30)
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30),
    key=st.integers(-(2**63), 2**63 - 1),
    columns=st.integers(1, 9),
    zeros=st.integers(0, 9),
    scale=st.floats(0, 1e3),
)
def test_draws_equal_the_torch_form(ids: list[int], key: int, columns: int, zeros: int, scale: float) -> None:
    zeros = min(zeros, columns)
    spec = replace(table("t", 9, columns), init=TableInit(scale=scale), zero_columns=zeros)
    drawn = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(drawn_uniformly(drawn, key, columns, zeros, scale), draw_by_torch(spec, key, drawn))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_filled_and_their_state_cleared(dtype: torch.dtype, form: dict[str, int]) -> None:
    """As by torch's operations; padding columns and other rows stay as they are."""
    draw = torch.Generator().manual_seed(0)
    weight, of_weights, of_rows = torch.randn(3000, 8).to(dtype), torch.randn(3000, 8), torch.randn(3000)
    rows = torch.randperm(3000, generator=draw)[:2000]
    values = torch.randn(2000, 9, generator=draw)[:, 2:9]  # as of a shard of some columns
    expected = [weight.clone(), of_weights.clone(), of_rows.clone()]
    expected[0][:, :7].index_copy_(0, rows, values.to(dtype))
    for state in expected[1:]:
        state.index_fill_(0, rows, 0)
    with set_to(**form):
        renew(rows, [of_weights, of_rows], weight, values)
    assert all(torch.equal(a, b) for a, b in zip((weight, of_weights, of_rows), expected, strict=True))
    renew(rows[:5], [weight, of_rows], weight, None)
    assert not weight[rows[:5]].any() and weight[rows[5:]].equal(expected[0][rows[5:]])


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_that_is_not_there(row: int) -> None:
    weight = torch.ones(4, 2)
    with pytest.raises(IndexError, match="in a shard of 4"):
        renew(torch.tensor([0, row]), [weight], weight, None)
    assert weight.all()
