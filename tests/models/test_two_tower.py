"""Two towers against their equation; which features go where, and which are refused."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.two_tower import TwoTower, TwoTowerConfig
from tests.models.cases import mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup

IDS = Identity(num_ids=5)
SHOP = Schema(
    features=(
        IdFeature(name="who", ids=IDS, role="user"),
        IdListFeature(name="liked", ids=IDS, role="user", table="what"),
        IdFeature(name="what", ids=IDS, role="item"),
        IdFeature(name="hour", ids=IDS, role="context"),
        IdFeature(name="cross", ids=IDS),
        DenseFeature(name="match", role="user_item"),
        DenseFeature(name="age", role="user"),
        DenseFeature(name="price", role="item"),
    )
)
ROLES = ("who", "liked", "what", "age", "price")


def reads(model: TwoTower) -> dict[str, list[str]]:
    return {side: [*model.inputs[side].tables, *model.inputs[f"{side}_dense"].features] for side in ("user", "item")}


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_equals_the_equation(dense: int, normalise: bool, affine: bool) -> None:
    schema = mixed_schema(dense)
    numeric = {"user": ("n1",), "item": ("n0", "n2")} if dense else {"user": (), "item": ()}
    config = TwoTowerConfig(
        embedding_dim=3,
        user=("user", "last_item", *numeric["user"]),
        item=("item", "t*", *numeric["item"]),
        mlp=MLPConfig(hidden=(7,)),
        vector_dim=5,
        normalise=normalise,
        affine=affine,
        task="binary" if affine else "regression",
    )
    model = TwoTower(Fields(schema), config).double()
    names = [f.name for f in schema.dense]
    lookup = ReferenceLookup(model, dtype=torch.float64, dense_names=names)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    inputs = lookup(batch)
    found = {}
    for side, tower in (("user", model.user_tower), ("item", model.item_tower)):
        numbers = batch.dense.double().numpy()[:, [names.index(n) for n in numeric[side]]]
        x = np.concatenate([pooled_rows(lookup, side, batch).reshape(6, -1), numbers], 1)
        found[side] = perceptron(tower, x)
        if normalise:
            found[side] = np.stack([vector / np.sqrt(sum(v * v for v in vector)) for vector in found[side]])
        alone = getattr(model, f"{side}_vectors")(inputs[side], inputs[f"{side}_dense"])
        torch.testing.assert_close(alone, torch.from_numpy(found[side]), rtol=0, atol=1e-12)
    expected = np.array([sum(a * b for a, b in zip(found["user"][r], found["item"][r], strict=True)) for r in range(6)])
    if affine:
        expected = model.scale.item() * expected + model.bias.item()
    torch.testing.assert_close(model(**inputs), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_cosines_start_at_a_scale_that_a_sigmoid_tells_apart() -> None:
    fields = Fields(SHOP.subset(ROLES))
    assert TwoTower(fields, TwoTowerConfig(normalise=True)).scale.item() == 10
    assert TwoTower(fields, TwoTowerConfig()).scale.item() == 1
    with pytest.raises(ValidationError, match=r"normalise with affine: false keeps probabilities between 0\.27"):
        TwoTowerConfig(normalise=True, affine=False)


def test_roles_decide_unless_features_are_named() -> None:
    fields = Fields(SHOP.subset(ROLES))
    model = TwoTower(fields, TwoTowerConfig())
    assert reads(model) == {"user": ["who", "liked", "age"], "item": ["what", "price"]}
    assert set(model.tables) == {"who", "what"}  # what a user liked is looked up where items are
    assert reads(TwoTower(fields, TwoTowerConfig(user=("wh*",), item=("liked",)))) == {
        "user": ["who", "what"],
        "item": ["liked"],
    }
    assert reads(TwoTower(fields, TwoTowerConfig(user=("who",))))["item"] == ["what", "price"]
    named = TwoTowerConfig(user=("who", "cross"), item=("what",))
    assert reads(TwoTower(Fields(SHOP), named)) == {"user": ["who", "cross"], "item": ["what"]}


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        ((*ROLES, "hour"), TwoTowerConfig(), "'hour' has role: context, .* could not be computed ahead"),
        (None, TwoTowerConfig(user=("who", "hour"), item=("what",)), "'hour' has role: context"),
        ((*ROLES, "match"), TwoTowerConfig(), "'match' has role: user_item, known only once the two meet, .* alone"),
        (None, TwoTowerConfig(user=("who", "match"), item=("what",)), "'match' has role: user_item"),
        ((*ROLES, "cross"), TwoTowerConfig(), "'cross' has no role, .* give it role: user or role: item"),
        (ROLES, TwoTowerConfig(user=("w*",), item=("what",)), "'what' is named for both towers"),
        (ROLES, TwoTowerConfig(user=("woh",)), "user: unknown feature 'woh'; did you mean 'who'"),
        (("who", "price"), TwoTowerConfig(), "the item tower has no id or id_list feature"),
    ],
)
def test_what_no_tower_can_read_is_one_line(
    names: tuple[str, ...] | None, config: TwoTowerConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        TwoTower(Fields(SHOP.subset(names)), config)
    assert "\n" not in str(raised.value)
