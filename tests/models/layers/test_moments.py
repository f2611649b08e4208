"""Moments over live rows of all ranks against torch's own batch norm."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardrec.models.layers.moments import BatchNorm, Standardise, live_rows
from tests.models.layers.normalised import train_all


def rows(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 + 5


def pair() -> tuple[BatchNorm, nn.BatchNorm1d]:
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm1d(3).double()
    with torch.no_grad():
        for p, q in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            p.copy_(torch.rand(3))
            q.copy_(p)
    return ours, theirs


def compare(ours: BatchNorm, theirs: nn.BatchNorm1d, x: Tensor, padded: Tensor | None = None) -> None:
    """Training and evaluation, outputs and gradients; `padded` is x among padding rows."""
    live = torch.ones(len(x), dtype=torch.bool) if padded is None else padded[:, 0] < 100
    ours_in = (x if padded is None else padded).clone().requires_grad_()
    theirs_in = x.clone().requires_grad_()
    with live_rows(live):
        y = ours(ours_in)[live]
    expected = theirs(theirs_in)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    y.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours_in.grad[live], theirs_in.grad, rtol=0, atol=1e-10)
    assert (ours_in.grad[~live] == 0).all()
    torch.testing.assert_close(ours.moments.running_mean, theirs.running_mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.moments.running_var, theirs.running_var, rtol=0, atol=1e-10)


def test_equals_torchs_batch_norm() -> None:
    ours, theirs = pair()
    for seed in range(3):
        compare(ours, theirs, rows(20, seed))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(rows(4)), theirs(rows(4)), rtol=0, atol=1e-10)


def test_padding_rows_are_left_out() -> None:
    ours, theirs = pair()
    x = rows(20)
    padded = torch.full((27, 3), 1e4, dtype=torch.float64)
    padded[[i for i in range(27) if i % 4]] = x
    compare(ours, theirs, x, padded)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_training_on_two_ranks_equals_one_process(
    two_ranks: list[dict[str, Any]], dtype: torch.dtype, tolerance: float
) -> None:
    """In fp32 Dice is compiled, where there is a compiler."""
    expected = train_all(dtype)
    for rank in two_ranks:
        found = rank[f"moments {dtype}"]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=tolerance)


def test_a_batch_of_padding_leaves_running_moments_alone() -> None:
    layer = Standardise(3)
    with live_rows(torch.zeros(4, dtype=torch.bool)):
        assert layer(torch.randn(4, 3)).isfinite().all()
    assert torch.equal(layer.running_mean, torch.zeros(3)) and torch.equal(layer.running_var, torch.ones(3))


def test_positions_are_all_live() -> None:
    layer = Standardise(3, padded=False)
    x = torch.randn(7, 3)
    with live_rows(torch.zeros(4, dtype=torch.bool)):
        torch.testing.assert_close(layer(x).mean(0), torch.zeros(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_large_mean_does_not_swamp_the_variance(offset: float) -> None:
    layer = Standardise(1, momentum=1.0)
    x = torch.randn(512, 1, generator=torch.Generator().manual_seed(0)) + offset
    layer(x)
    assert layer(x).var().item() == pytest.approx(1, rel=1e-2)
