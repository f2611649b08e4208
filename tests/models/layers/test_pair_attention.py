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


def test_an_empty_batch_and_a_single_field() -> None:
    layer, factors = layer_and_factors()
    assert layer(factors[:0]).shape == (0, DIM)
    assert torch.equal(PairAttention(1, DIM, HIDDEN)(torch.randn(3, 1, DIM)), torch.zeros(3, DIM))
