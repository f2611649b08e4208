"""Dot products of pairs against the double loop, and their own gradient against autograd's."""

import itertools

import pytest
import torch

from models.layers.interaction import PairwiseDots


def loops(vectors: torch.Tensor) -> torch.Tensor:
    pairs = itertools.combinations(range(vectors.shape[1]), 2)
    return torch.stack([(vectors[:, i] * vectors[:, j]).sum(1) for i, j in pairs], 1)


@pytest.mark.parametrize("vectors", [2, 5])
def test_value_and_gradient_equal_the_double_loop(vectors: int) -> None:
    x = torch.randn(4, vectors, 3, dtype=torch.float64, requires_grad=True)
    dots = PairwiseDots(vectors)
    assert dots.width == vectors * (vectors - 1) // 2
    weight = torch.randn(4, dots.width, dtype=torch.float64)
    (found,) = torch.autograd.grad((dots(x) * weight).sum(), x)
    (expected,) = torch.autograd.grad((loops(x) * weight).sum(), x)
    torch.testing.assert_close(dots(x), loops(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_trains_under_bf16() -> None:
    x = torch.randn(4, 5, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dots = PairwiseDots(5)(x)
    dots.float().sum().backward()
    (expected,) = torch.autograd.grad(loops(x).sum(), x)
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, expected, rtol=0.02, atol=0.02)


def test_its_index_is_in_no_checkpoint() -> None:
    assert not PairwiseDots(4).state_dict()
