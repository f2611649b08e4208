"""Dueling bandit gradient descent against a loop in float64, weight by weight."""

import numpy as np
import pytest
import torch

from shardrec.trainer.simulation.dueling_bandit import DuelingBandit
from shardrec.trainer.simulation.settings import DuelSettings


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {"v.weight": (5, 4), "v.bias": (5,), "a.bias": ()}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=draw)) for name, shape in shapes.items()}


def duel(bandit: DuelingBandit, of_first: int, of_second: int) -> bool:
    """A period in which W's items got some clicks and W~'s others, beside items without."""
    source = np.array([[0] * of_first + [1] * of_second + [0, 1]], np.int8)
    clicks = np.array([[True] * (of_first + of_second) + [False, False]])
    bandit.credit(source, clicks)
    return bandit.decide()


@pytest.mark.parametrize("update", ["along", "printed"])
def test_a_win_moves_each_weight_as_the_paper_says(update: str) -> None:
    parameters = weights()
    before = {name: w.detach().double().numpy().copy() for name, w in parameters.items()}
    bandit = DuelingBandit(parameters, DuelSettings(alpha=0.2, eta=0.1, update=update), seed=7)
    perturbed = {name: w.double().numpy().copy() for name, w in bandit.perturbed.items()}
    for name, w in before.items():
        shares = (perturbed[name] - w) / w / 0.2  # rand(-1, 1), each weight its own
        assert (abs(shares) <= 1.00001).all() and np.unique(shares.round(3)).size == w.size
    assert duel(bandit, 2, 3)
    for name, w in before.items():
        for at in np.ndindex(w.shape):
            other = perturbed[name][at]
            expected = w[at] + 0.1 * (other - w[at] if update == "along" else other)
            assert parameters[name].detach().numpy()[at] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("clicks", [(0, 0), (3, 3), (4, 1)])
def test_a_tie_or_a_loss_changes_nothing(clicks: tuple[int, int]) -> None:
    parameters = weights()
    before = {name: w.detach().clone() for name, w in parameters.items()}
    bandit = DuelingBandit(parameters)
    first = bandit.perturbed
    assert not duel(bandit, *clicks)
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    assert not torch.equal(bandit.perturbed["v.weight"], first["v.weight"])  # another try


def test_clicks_of_one_period_do_not_count_in_the_next() -> None:
    bandit = DuelingBandit(weights())
    assert duel(bandit, 0, 5)
    assert not duel(bandit, 1, 0)


def test_perturbations_depend_on_seed_period_and_weights_alone() -> None:
    bandit, late = DuelingBandit(weights(), seed=5), DuelingBandit(weights(), seed=5)
    for _ in range(3):
        bandit.perturbed
        bandit.decide()
    late.period = 3
    assert all(torch.equal(bandit.perturbed[name], late.perturbed[name]) for name in late.perturbed)
    other = DuelingBandit(weights(), seed=6)
    other.period = 3
    assert not torch.equal(other.perturbed["v.weight"], late.perturbed["v.weight"])
