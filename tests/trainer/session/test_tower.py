"""Tower optimizers: state exists before the first step and equals what torch's own first step would start from."""

import pytest
import torch
from torch import nn

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import Schedule, TowerOptimizer
from shardrec.trainer.session.tower import Tower, _build, learning_rate_factor, weight_decays

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
    tower, reference = Tower(dict(ours.named_parameters()), config), _build(dict(plain.named_parameters()), config)
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


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam"])
def test_weight_decay_by_parameter_name_equals_torchs_own_groups(name: str) -> None:
    """The tower's parameters carry their model's place in a training step before their names."""
    torch.manual_seed(0)
    ours, plain = (nn.ModuleDict({"mlp": nn.Linear(3, 4), "head": nn.Linear(4, 1)}) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    decays = {"*": 0.1, "mlp.*": 0.3, "*.bias": 0.0}
    config = TowerOptimizer(name=name, learning_rate=0.1, weight_decay=decays)
    tower = Tower({f"model.{n}": p for n, p in ours.named_parameters()}, config)
    groups = [
        {"params": [plain["mlp"].weight], "weight_decay": 0.3},
        {"params": [plain["head"].weight], "weight_decay": 0.1},
        {"params": [plain["mlp"].bias, plain["head"].bias], "weight_decay": 0.0},
    ]
    kinds = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
    eps = {} if name == "sgd" else {"eps": 1e-8}
    reference = kinds.get(name, torch.optim.Adam)(groups, lr=0.05, **eps)
    for _ in range(3):
        x = torch.randn(5, 3)
        for model in (ours, plain):
            model.zero_grad()
            model["head"](model["mlp"](x)).square().sum().backward()
        tower.step(0.5)
        reference.step()
    for parameter_name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(parameter_name), rtol=1e-6, atol=1e-7)


def test_weight_decays_go_by_the_last_pattern_that_matches() -> None:
    names = ("mlp.0.weight", "mlp.0.bias", "attention.weight", "linear.bias")
    patterns = {"mlp.*": 1e-3, "*.bias": 1e-4, "mlp.0.bias": 0.0}
    assert weight_decays(names, patterns) == dict(zip(names, (1e-3, 0.0, 0.0, 1e-4), strict=True))
    assert weight_decays(names, TowerOptimizer(weight_decay=0.5).weight_decay) == dict.fromkeys(names, 0.5)
    assert weight_decays((), {"*": 0.1}) == {}
    with pytest.raises(UserError, match=r"unknown tower parameter 'atention.weight'; did you mean 'attention.weight'"):
        weight_decays(names, {"atention.weight": 0.1})
