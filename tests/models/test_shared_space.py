"""Towers rank as their models do: dot products of their vectors differ from scores by what a user has in common."""

import pytest
import torch

from tests.models.cases import randomise
from tests.models.test_contract import SETTINGS, batch_of, build

VARIANTS = [
    ("mf", SETTINGS["mf"]),
    ("gmf", SETTINGS["gmf"]),
    ("two_tower", SETTINGS["two_tower"]),
    ("two_tower", SETTINGS["two_tower"] | {"normalise": True}),
    ("two_tower", SETTINGS["two_tower"] | {"affine": False}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_dot_products_rank_as_the_model_does(name: str, settings: dict[str, object]) -> None:
    model, lookup = build(name, settings)
    model.double(), lookup.double()
    randomise(model, lookup)
    towers = model.towers()
    assert towers is not None
    inputs = {key: value.double() for key, value in lookup(batch_of(name, 8)).items()}
    user = towers.user(**{key: inputs[key] for key in towers.user_inputs})
    item = towers.item(**{key: inputs[key] for key in towers.item_inputs})
    pairs = [(u, i) for u in range(8) for i in range(8)]
    users, items = (torch.tensor(side) for side in zip(*pairs, strict=True))
    crossed = {k: v[users] if k in towers.user_inputs else v[items] for k, v in inputs.items()}
    score = model(**crossed).view(8, 8)
    difference = score - user @ item.T
    assert float(score.detach().std()) > 0.1
    torch.testing.assert_close(difference, difference[:, :1].expand(8, 8), rtol=0, atol=1e-12)


def test_a_model_whose_sides_meet_in_an_mlp_says_so() -> None:
    model, _ = build("ncf_mlp", SETTINGS["ncf_mlp"])
    assert model.towers() is None
    assert "MLP" in model.no_shared_space
