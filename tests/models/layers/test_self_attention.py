"""AutoInt's interacting layer against its equations, by loops."""

import numpy as np
import pytest
import torch

from shardrec.models.layers.self_attention import FieldAttention
from tests.models.cases import randomise


def attention_by_loops(layer: FieldAttention, e: np.ndarray, head_dim: int, scale: float) -> np.ndarray:
    """[B, F, D] -> [B, F, heads * head_dim]."""
    q, k, v, residual = (
        m.weight.detach().double().numpy() for m in (layer.query, layer.key, layer.value, layer.residual)
    )
    result = np.zeros((*e.shape[:2], len(q)))
    for b in range(len(e)):
        for m in range(e.shape[1]):
            for start in range(0, len(q), head_dim):
                head = slice(start, start + head_dim)
                score = np.array([(q[head] @ e[b, m]) @ (k[head] @ other) * scale for other in e[b]])
                weight = np.exp(score) / np.exp(score).sum()
                result[b, m, head] = sum(w * (v[head] @ other) for w, other in zip(weight, e[b], strict=True))
            result[b, m] = np.maximum(result[b, m] + residual @ e[b, m], 0)
    return result


@pytest.mark.parametrize("scale", [False, True])
def test_equals_the_equations(scale: bool) -> None:
    layer = FieldAttention(4, heads=3, head_dim=5, scale=scale).double()
    randomise(layer)
    e = torch.randn(3, 6, 4, dtype=torch.float64)
    expected = attention_by_loops(layer, e.numpy(), 5, 5**-0.5 if scale else 1.0)
    assert layer.width == 15
    torch.testing.assert_close(layer(e), torch.from_numpy(expected), rtol=0, atol=1e-12)
