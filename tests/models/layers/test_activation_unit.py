"""DIN's activation unit, whose first product is in parts, against the MLP over the whole input."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from shardrec.models.layers import pieces
from shardrec.models.layers.activation_unit import ActivationUnit, Interaction, ProjectedUnit
from shardrec.models.layers.mlp import MLPConfig
from tests.models.layers.jagged import Rows, numbers, rows


def unit(interaction: Interaction, activation: str = "dice") -> ActivationUnit:
    torch.manual_seed(0)
    return ActivationUnit(3, MLPConfig(hidden=(5, 4), activation=activation), interaction).double()


def by_loops(layer: ActivationUnit, events: Tensor, target: Tensor, given: Rows, interaction: Interaction) -> Tensor:
    inputs = []
    for t, b in enumerate(given.row.tolist()):
        k, q = events[t], target[b]
        beside = [k - q, k * q] if interaction == "difference_product" else [torch.outer(k, q).flatten()]
        inputs.append(torch.cat([k, q, *beside]))
    return layer.mlp(torch.stack(inputs)).squeeze(1)


@pytest.mark.parametrize("piece_bytes", [1, 200, 1 << 20])
@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_equals_the_mlp_over_the_whole_input(
    interaction: Interaction, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and all gradients; Dice's moments are over the positions of all rows."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    given, found = rows(), []
    for whole in (False, True):
        layer, events, target = unit(interaction), numbers(rows().positions, 3), numbers(7, 3, seed=1)
        if whole:
            score = by_loops(layer, events, target, given, interaction)
        else:
            score = layer(events, target, given.row, given.offsets)
        (score * numbers(given.positions, seed=2).detach()).sum().backward()
        running = [v for k, v in layer.state_dict().items() if "running" in k]
        found.append([score, events.grad, target.grad, *(p.grad for p in layer.parameters()), *running])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_gradients_by_differences(interaction: Interaction) -> None:
    given, layer = rows((2, 0, 1)), unit(interaction, "tanh")
    arguments = (numbers(3, 3), numbers(3, 3, seed=1))
    assert torch.autograd.gradcheck(lambda k, q: layer(k, q, given.row, given.offsets), arguments)


def test_without_positions_and_without_hidden_layers() -> None:
    given = rows((0, 0))
    layer = ActivationUnit(3, MLPConfig(hidden=()))
    events = torch.zeros(0, 3, requires_grad=True)
    score = layer(events, torch.ones(2, 3), given.row, given.offsets)
    score.sum().backward()
    assert score.shape == (0,) and all(not p.grad.any() for p in layer.parameters())


def test_a_projected_unit_takes_targets_of_another_width() -> None:
    """Its weights are for a softmax; under autocast they are close, and fp32."""
    torch.manual_seed(0)
    given, layer = rows(), ProjectedUnit(4, 3, MLPConfig(hidden=(5,), activation="tanh"), "difference_product")
    assert not layer.unit.mlp.layers[-1].bias.requires_grad
    states, target = numbers(given.positions, 3).detach().float(), numbers(7, 4, seed=1).detach().float()
    query = target @ layer.project.weight.T + layer.project.bias
    query = torch.where(query > 0, query, 0.1 * query)
    found = layer(states, target, given.row, given.offsets)
    torch.testing.assert_close(found, by_loops(layer.unit, states, query, given, "difference_product"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(states, target, given.row, given.offsets)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, found)
    torch.testing.assert_close(rounded, found, rtol=0.05, atol=0.02)
    rounded.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.requires_grad)


def test_products_may_be_bf16() -> None:
    given = rows((30, 0, 50))
    layer = ActivationUnit(3, MLPConfig(hidden=(8,), activation="dice"))
    events, target = numbers(80, 3).detach().float().requires_grad_(), numbers(3, 3, seed=1).detach().float()
    expected = layer(events, target, given.row, given.offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(events, target, given.row, given.offsets)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), events)
    (gradient,) = torch.autograd.grad(found.sum(), events)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0.1, atol=0.02)
