"""Softmax over rows of jagged batches against torch's, row by row, and its gradient."""

import torch

from shardrec.models.layers.jagged_softmax import jagged_softmax
from tests.models.layers.jagged import numbers, rows


def test_equals_each_rows_softmax() -> None:
    given = rows()
    score = numbers(given.positions)
    expected = torch.cat([torch.softmax(part, 0) for part in given.split(score)])
    found = jagged_softmax(score, given.row, given.lengths, given.offsets)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda s: jagged_softmax(s, given.row, given.lengths, given.offsets), score)


def test_large_scores_do_not_overflow() -> None:
    given = rows((2, 2, 0))
    score = torch.tensor([1e4, 1e4, -1e4, 0.0])
    found = jagged_softmax(score, given.row, given.lengths, given.offsets)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0, 1.0]))


def test_without_positions() -> None:
    given = rows((0, 0))
    score = numbers(0)
    jagged_softmax(score, given.row, given.lengths, given.offsets).sum().backward()
    assert score.grad.shape == (0,)
