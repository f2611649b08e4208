"""Tower optimizers: state exists before the first step and equals what torch's own first step would start from."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.trainer.config.sections import ParameterOptimizer, Schedule, TowerOptimizer
from shardrec.trainer.session.parameter_optimizers import build, optimizers_of, weight_decays
from shardrec.trainer.session.tower import Tower, learning_rate_factor
from tests.sharding.updates.test_ftrl import Paper

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
    tower = Tower(dict(ours.named_parameters()), config)
    groups = [{"params": plain.parameters(), "weight_decay": config.weight_decay["*"]}]
    reference = build(groups, optimizers_of(["p"], config)["p"])
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


# ---------------------------------------------------------------- optimizers of parameters of their own


class Parts(nn.Module):
    """Parameters of any shape, a single number among them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.bias = nn.Parameter(torch.tensor(0.3))
        self.mlp = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.linear(x)) + self.bias


FTRL = {"name": "ftrl", "learning_rate": 0.3, "beta": 0.7, "l1": 0.05, "l2": 0.02}


def test_ftrl_of_some_parameters_equals_the_paper_step_by_step() -> None:
    """From their first values, with the summed loss's gradients and under a schedule; the others go on as before."""
    torch.manual_seed(0)
    ours, plain = Parts(), Parts()
    plain.load_state_dict(ours.state_dict())
    config = TowerOptimizer(learning_rate=0.05, parameters={"linear.*": FTRL, "bias": FTRL | {"l1": 0.5}})
    tower = Tower({f"model.{n}": p for n, p in ours.named_parameters()}, config)
    papers = {n: of_paper(p, config.parameters["bias" if n == "bias" else "linear.*"])
              for n, p in ours.named_parameters() if not n.startswith("mlp")}  # fmt: skip
    adam = torch.optim.Adam(plain.mlp.parameters(), lr=0.05, fused=True)
    first = tower.state()["model.bias"]["z"].clone()
    assert first == pytest.approx(-0.3 * (0.7 / 0.3 + 0.02) - 0.5) and set(tower.state()["model.linear.bias"]) == {
        "z",
        "n",
    }
    zeros = set()
    for step in range(20):
        factor, rows = 1 - step / 40, 4 + step
        x = torch.randn(rows, 3)
        tower.zero_grad()
        (ours(x) - x.sum(1, keepdim=True)).square().mean().backward()
        gradients = {name: p.grad.double().numpy() * rows for name, p in ours.named_parameters()}
        for one, other in zip(ours.mlp.parameters(), plain.mlp.parameters(), strict=True):
            other.grad = one.grad.clone()
        tower.step(factor, rows)
        adam.param_groups[0]["lr"] = 0.05 * factor
        adam.step()
        for name, paper in papers.items():
            paper.step(set(range(len(paper.w))), gradients[name].reshape(paper.w.shape), factor)
            found = ours.get_parameter(name).detach().numpy().reshape(paper.w.shape)
            np.testing.assert_allclose(found, paper.w, atol=2e-5, err_msg=f"{name} after step {step}")
        zeros.add(sum(int((paper.w == 0).sum()) for paper in papers.values()))
    assert len(zeros) > 1  # weights come and go, so that the threshold is tested
    for one, other in zip(ours.mlp.parameters(), plain.mlp.parameters(), strict=True):
        assert torch.equal(one, other)


def of_paper(parameter: nn.Parameter, settings: ParameterOptimizer) -> Paper:
    """The recurrences of a parameter, as of a table of one column."""
    values = parameter.detach().double().numpy().reshape(-1, 1)
    optimizer = TableOptimizer(**settings.model_dump())
    return Paper(EmbeddingTable(name="p", num_embeddings=len(values), embedding_dim=1, optimizer=optimizer), values)


def test_a_tower_may_be_trained_by_ftrl_as_a_whole() -> None:
    torch.manual_seed(0)
    ours, parts = Parts(), Parts()
    parts.load_state_dict(ours.state_dict())
    whole = Tower(dict(ours.named_parameters()), TowerOptimizer(**FTRL))
    each = Tower(dict(parts.named_parameters()), TowerOptimizer(parameters={"*": FTRL}))
    for _ in range(3):
        x = torch.randn(5, 3)
        for model, tower in ((ours, whole), (parts, each)):
            tower.zero_grad()
            model(x).square().mean().backward()
            tower.step(1.0, 5.0)
    assert all(torch.equal(p, parts.get_parameter(n)) for n, p in ours.named_parameters())
    with torch.no_grad():
        ours.bias.fill_(-2.0)
    whole.start_from_parameters()
    assert whole.state()["bias"]["z"] == pytest.approx(2 * (0.7 / 0.3 + 0.02) + 0.05) and not whole.state()["bias"]["n"]


def test_settings_go_by_the_last_pattern_and_weight_decay_to_the_rest() -> None:
    names = ("mlp.0.weight", "mlp.0.bias", "linear.bias", "linear.weight")
    sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
    config = TowerOptimizer(
        learning_rate=0.2, weight_decay={"*": 0.01, "*.bias": 0.02}, parameters={"linear.*": FTRL, "linear.bias": sgd}
    )
    found = optimizers_of(names, config)
    assert [(o.name, o.weight_decay) for o in found.values()] == [
        ("adam", 0.01),
        ("adam", 0.02),
        ("sgd", 0.1),
        ("ftrl", 0),
    ]
    assert found["linear.weight"].l1 == 0.05 and found["linear.bias"].learning_rate == 1e-3  # a default of its own
    with pytest.raises(
        UserError, match=r"tower.parameters: unknown tower parameter 'linea.\*'; did you mean 'linear.\*'"
    ):
        optimizers_of(names, TowerOptimizer(parameters={"linea.*": FTRL}))
    with pytest.raises(UserError, match=r"weight_decay: 'linear.\*' matches only parameters that `parameters` gives"):
        optimizers_of(names, config.model_copy(update={"weight_decay": {"linear.*": 0.1}}))
    assert TowerOptimizer(**config.model_dump()) == config  # as a resolved run file says it


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parameters": {"a": {"learning_rate": 0.1}}}, "parameters.a.name\n  Field required"),
        (
            {"parameters": {"a": FTRL | {"weight_decay": 0.1}}},
            "weight_decay is a setting of .*, not of ftrl; l2 is its L2",
        ),
        (
            {"parameters": {"a": FTRL | {"eps": 0.1}}},
            "eps is a setting of adagrad, rmsprop, adam, not of ftrl; leave it",
        ),
        (
            {"parameters": {"a": {"name": "adam", "momentum": 0.1}}},
            "momentum is a setting of sgd, rmsprop, not of adam",
        ),
        ({"name": "adagrad", "l1": 1}, "l1 is a setting of ftrl, not of adagrad; leave it out"),
        ({"name": "ftrl", "weight_decay": 0.1}, "weight_decay is not a setting of ftrl; l2 is its L2"),
        ({"name": "ftrl", "betas": (0.5, 0.5)}, "betas is a setting of adam, not of ftrl; leave it out"),
    ],
)
def test_settings_of_another_optimizer(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TowerOptimizer(**settings)
