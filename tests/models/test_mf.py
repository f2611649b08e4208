"""MF with biases against its equation; which two features it reads."""

from typing import Any

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.fields import Fields
from shardrec.models.mf import MF, MFConfig
from shardrec.models.tasks import Regression
from tests.models.cases import mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


def features(roles: dict[str, str | None]) -> Fields:
    return Fields(Schema(features=tuple(IdFeature(name=n, ids=Identity(num_ids=5), role=r) for n, r in roles.items())))


def test_equals_the_equation() -> None:
    schema = mixed_schema()
    config = MFConfig(user="user", item="item", embedding_dim=4, mean=3.5, task="regression")
    model = MF(Fields(schema), config).double()
    assert isinstance(model.task, Regression) and model.mean.item() == 3.5
    lookup = ReferenceLookup(model, dtype=torch.float64)
    assert not any(rows[:, 0].any() for rows in lookup.parameters())
    randomise(lookup)
    batch = mixed_batch(schema, 6)
    p, q = (pooled_rows(lookup, side, batch)[:, 0] for side in ("user", "item"))
    expected = [3.5 + p[b, 0] + q[b, 0] + sum(p[b, d] * q[b, d] for d in range(1, 5)) for b in range(6)]
    found = model(**lookup(batch))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "start"),
    [({"clip": (1, 5)}, 3), ({"clip": (1, 5), "mean": 3.6}, 3.6), ({"clip": (1, 5), "mean": 0}, 0), ({}, 0)],
)
def test_where_the_mean_starts(settings: dict[str, Any], start: float) -> None:
    config = MFConfig(user="user", item="item", task="regression", **settings)
    assert MF(Fields(mixed_schema()), config).mean.item() == pytest.approx(start)
    assert MF(Fields(mixed_schema()), MFConfig(user="user", item="item")).mean.item() == 0


def test_roles_say_which_features_unless_they_are_named() -> None:
    fields = features({"age": "user", "who": "user", "where": "context", "what": "item"})
    assert MF(fields, MFConfig()).features == ("age", "what")
    assert MF(fields, MFConfig(user="who")).features == ("who", "what")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MFConfig(user="what"), "`user` and `item` are both 'what'"),
        (MFConfig(user="woh"), "user: unknown .* 'woh'; did you mean 'who'"),
        (MFConfig(), "no id feature of the schema has role: user; name one by `user`"),
    ],
)
def test_a_pair_that_is_none_is_one_line(config: MFConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        MF(features({"who": None, "what": "item"}), config)
    assert "\n" not in str(raised.value)
