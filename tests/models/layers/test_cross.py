"""Cross layers against their equations, with the matrices that the layers never form."""

import numpy as np
import pytest
import torch
from torch import nn

from shardrec.models.layers.cross import CrossExperts, CrossLayer, CrossNetwork, LowRankCross
from tests.models.cases import randomise

ROWS, WIDTH, RANK = 5, 7, 3


def inputs(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator) for _ in range(count)]


def numbers(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().numpy()


@pytest.mark.parametrize("layers", [1, 4])
def test_cross_network_equals_the_recursion(layers: int) -> None:
    network = CrossNetwork(WIDTH, layers).double()
    randomise(network)
    (x0,) = inputs(1)
    expected = numbers(x0).copy()
    for row in expected:
        x_0, x = row.copy(), row.copy()
        for w, b in zip(numbers(network.weight), numbers(network.bias), strict=True):
            x = np.outer(x_0, x) @ w + b + x
        row[:] = x
    torch.testing.assert_close(network(x0), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_weight_reads_a_cross_network_without_forming_it(layers: int) -> None:
    network = CrossNetwork(WIDTH, layers).double()
    randomise(network)
    (x0,) = inputs(1)
    weight = torch.linspace(-1, 2, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(network.read_by(weight, x0), network(x0) @ weight, rtol=1e-12, atol=1e-12)


def test_one_cross_layer_has_degree_two() -> None:
    """What one row gives when it is scaled by t: a polynomial of degree L + 1 in t, whose next difference is 0."""
    network = CrossNetwork(WIDTH, 2).double()
    randomise(network)
    (x0,) = inputs(1)
    values = numbers(network(torch.stack([t * x0[0] for t in range(5)])))
    assert np.abs(np.diff(values, 3, axis=0)).max() > 1e-3
    np.testing.assert_allclose(np.diff(values, 4, axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("rank", [None, RANK])
def test_matrix_cross_equals_its_equation(rank: int | None) -> None:
    layer: nn.Module = CrossLayer(WIDTH) if rank is None else LowRankCross(WIDTH, rank)
    randomise(layer.double())
    x0, x = inputs(2)
    if isinstance(layer, CrossLayer):
        matrix, bias = numbers(layer.linear.weight), numbers(layer.linear.bias)
    else:
        matrix, bias = numbers(layer.up.weight) @ numbers(layer.down.weight), numbers(layer.up.bias)
        assert np.linalg.matrix_rank(matrix) == RANK
    expected = [a * (matrix @ b + bias) + b for a, b in zip(numbers(x0), numbers(x), strict=True)]
    torch.testing.assert_close(layer(x0, x), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)


def test_experts_equal_their_equation() -> None:
    experts = 4
    layer = CrossExperts(WIDTH, RANK, experts).double()
    randomise(layer)
    x0, x = inputs(2)
    expected = numbers(x).copy()
    v = numbers(layer.down.weight).reshape(experts, RANK, WIDTH)
    u = numbers(layer.up.weight).reshape(WIDTH, experts, RANK)
    for n in range(ROWS):
        a, b = numbers(x0)[n], numbers(x)[n]
        gate = np.exp(numbers(layer.gate.weight) @ b + numbers(layer.gate.bias))
        for k in range(experts):
            inner = np.tanh(numbers(layer.inner)[k].T @ np.tanh(v[k] @ b))
            expected[n] += gate[k] / gate.sum() * a * (u[:, k] @ inner + numbers(layer.up.bias))
    torch.testing.assert_close(layer(x0, x), torch.from_numpy(expected), rtol=0, atol=1e-12)
