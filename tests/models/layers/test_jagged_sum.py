"""Sums over rows of jagged batches against loops, and their gradients."""

import pytest
import torch

from shardrec.models.layers import pieces
from shardrec.models.layers.jagged_sum import jagged_sum, segment_sum
from tests.models.layers.jagged import numbers, rows


@pytest.mark.parametrize("piece_bytes", [1, 64, 1 << 20])
def test_equals_the_loop_and_its_gradients(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    given = rows()
    values, weights = numbers(given.positions, 4), numbers(given.positions, seed=1)
    expected = torch.zeros(7, 4, dtype=torch.float64)
    for t, b in enumerate(given.row.tolist()):
        expected[b] += weights[t].detach() * values[t].detach()
    found = jagged_sum(values, weights, given.row, given.offsets)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not found[1].any()
    assert torch.autograd.gradcheck(lambda v, w: jagged_sum(v, w, given.row, given.offsets), (values, weights))


def test_without_positions() -> None:
    given = rows((0, 0))
    values, weights = numbers(0, 4), numbers(0)
    found = jagged_sum(values, weights, given.row, given.offsets)
    found.sum().backward()
    assert found.shape == (2, 4) and not found.any() and values.grad.shape == (0, 4) and weights.grad.shape == (0,)


def test_columns_of_a_wider_array_are_summed_as_they_are() -> None:
    given = rows()
    wide = numbers(given.positions, 6).detach()
    torch.testing.assert_close(segment_sum(wide[:, 1:3], given.offsets), segment_sum(wide, given.offsets)[:, 1:3])
