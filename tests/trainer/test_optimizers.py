"""Tower optimizers: state exists before the first step and equals what torch's own first step would start from."""

import pytest
import torch
from torch import nn

from trainer.config import Schedule, TowerOptimizer
from trainer.optimizers import Tower, _build, learning_rate_factor

CONFIGS = [
    TowerOptimizer(name="sgd", learning_rate=0.1),
    TowerOptimizer(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    TowerOptimizer(name="adagrad", learning_rate=0.1),
    TowerOptimizer(name="rmsprop", learning_rate=0.1, momentum=0.5),
    TowerOptimizer(name="adam", learning_rate=0.1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}-{c.momentum}")
def test_state_made_beforehand_changes_nothing(config: TowerOptimizer) -> None:
    torch.manual_seed(0)
    ours, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(ours.state_dict())
    tower, reference = Tower(dict(ours.named_parameters()), config), _build(list(plain.parameters()), config)
    before = {k: set(v) for k, v in tower.state().items()}
    for _ in range(4):
        x = torch.randn(5, 3)
        for model in (ours, plain):
            model.zero_grad()
            model(x).square().sum().backward()
        tower.step(1.0)
        reference.step()
    assert {k: set(v) for k, v in tower.state().items()} == before
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name))


def test_the_gradient_is_clipped_to_the_norm() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    tower = Tower({"p": parameter}, TowerOptimizer(name="sgd", learning_rate=1.0, clip_norm=0.5))
    parameter.grad = torch.full((4,), 3.0)
    tower.step(1.0)
    assert parameter.norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("none", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.8, 0.6]), ("cosine", [0.5, 1, 1, 0.882843, 0.6])],
)
def test_schedule(decay: str, expected: list[float]) -> None:
    schedule = Schedule(warmup_steps=2, decay=decay, final_factor=0.2)
    assert [learning_rate_factor(schedule, step, 6) for step in range(5)] == pytest.approx(expected, abs=1e-6)
    assert learning_rate_factor(schedule, 6, 6) == pytest.approx(1.0 if decay == "none" else 0.2)


def test_a_model_without_tower_parameters() -> None:
    tower = Tower({}, TowerOptimizer())
    tower.zero_grad()
    tower.step(1.0)
    assert tower.state() == {}
