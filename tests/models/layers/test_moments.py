"""Moments over live rows of all ranks against torch's own batch norm."""

import pytest
import torch
from torch import Tensor, nn

from models.layers.moments import BatchNorm, Standardise, live_rows


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


def test_ranks_share_their_moments() -> None:
    """Two ranks, one after the other: what one hands to `reduce`, the other's sum holds."""
    x, (ours, _) = rows(20), pair()
    expected = ours(x)
    parts = (x[:3], x[3:])
    handed: list[Tensor] = []

    def collect(sums: Tensor) -> Tensor:
        handed.append(sums)
        return sums

    for part in parts:
        with live_rows(None, collect):
            pair()[0](part)
    for part, wanted in zip(parts, (expected[:3], expected[3:]), strict=True):
        rank = BatchNorm(3).double()
        rank.load_state_dict(ours.state_dict())
        rank.moments.running_mean.zero_()
        rank.moments.running_var.fill_(1)
        with live_rows(None, lambda sums: handed[0] + handed[1]):
            torch.testing.assert_close(rank(part), wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(rank.moments.running_mean, ours.moments.running_mean, rtol=0, atol=1e-10)


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
