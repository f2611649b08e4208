"""Attention over pairs of fields against loops over rows and pairs."""

from itertools import combinations

import numpy as np
import pytest
import torch

from shardrec.models.layers import pair_attention
from shardrec.models.layers.pair_attention import PairAttention
from tests.models.cases import randomise

ROWS, FIELDS, DIM, HIDDEN = 7, 5, 3, 4


def layer_and_factors() -> tuple[PairAttention, torch.Tensor]:
    layer = PairAttention(FIELDS, DIM, HIDDEN).double()
    randomise(layer)
    generator = torch.Generator().manual_seed(0)
    return layer, torch.randn(ROWS, FIELDS, DIM, dtype=torch.float64, generator=generator)


def by_loops(layer: PairAttention, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attention [B, P] and pooled pairs [B, D]."""
    w, b = layer.hidden.weight.detach().numpy(), layer.hidden.bias.detach().numpy()
    h = layer.score.weight.detach().numpy()[0]
    weights, pooled = [], []
    for v in factors:
        pairs = [v[i] * v[j] for i, j in combinations(range(len(v)), 2)]
        scores = [np.exp(h @ np.maximum(w @ pair + b, 0)) for pair in pairs]
        weights.append(np.array(scores) / sum(scores))
        pooled.append(sum(a * pair for a, pair in zip(weights[-1], pairs, strict=True)))
    return np.stack(weights), np.stack(pooled)


@pytest.mark.parametrize("numbers_at_once", [1 << 18, 2 * 10 * DIM, 1])
def test_equals_the_loops_however_many_rows_at_once(monkeypatch: pytest.MonkeyPatch, numbers_at_once: int) -> None:
    monkeypatch.setattr(pair_attention, "_NUMBERS_AT_ONCE", numbers_at_once)
    layer, factors = layer_and_factors()
    weights, pooled = by_loops(layer, factors.numpy())
    torch.testing.assert_close(layer(factors), torch.from_numpy(pooled), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.weights(factors), torch.from_numpy(weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("numbers_at_once", [1 << 18, 1])
def test_dropout_leaves_whole_weights_out_and_scales_the_others(
    monkeypatch: pytest.MonkeyPatch, numbers_at_once: int
) -> None:
    """In training alone: of three pairs' products in four columns, the sum tells what each was multiplied by."""
    monkeypatch.setattr(pair_attention, "_NUMBERS_AT_ONCE", numbers_at_once)
    torch.manual_seed(0)
    layer, factors = PairAttention(3, 4, HIDDEN, dropout=0.75).double(), torch.randn(200, 3, 4, dtype=torch.float64)
    randomise(layer)
    weights, pooled = by_loops(layer, factors.numpy())
    found = layer(factors).detach().numpy()
    np.testing.assert_allclose(layer.weights(factors).detach().numpy(), weights, rtol=0, atol=1e-12)
    times = []
    for v, a, y in zip(factors.numpy(), weights, found, strict=True):
        pairs = np.stack([v[i] * v[j] for i, j in combinations(range(3), 2)], 1)
        times.append(np.linalg.lstsq(pairs * a, y)[0])
        np.testing.assert_allclose(pairs * a @ times[-1], y, rtol=0, atol=1e-9)
    kept = np.stack(times) > 2
    np.testing.assert_allclose(np.stack(times), np.where(kept, 4, 0), rtol=0, atol=1e-6)
    assert 0.2 < kept.mean() < 0.3 and {0, 1, 2} <= set(kept.sum(1))
    layer.eval()
    torch.testing.assert_close(layer(factors), torch.from_numpy(pooled), rtol=0, atol=1e-12)


def test_an_empty_batch_and_a_single_field() -> None:
    layer, factors = layer_and_factors()
    assert layer(factors[:0]).shape == (0, DIM)
    assert torch.equal(PairAttention(1, DIM, HIDDEN)(torch.randn(3, 1, DIM)), torch.zeros(3, DIM))
