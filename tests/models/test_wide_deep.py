"""Wide & Deep against its equation, by loops; which features are wide and deep."""

import numpy as np
import pytest
import torch

from data_pipeline.errors import UserError
from models.inputs import Fields, TableSettings
from models.layers.mlp import MLPConfig
from models.wide_deep import WideDeep, WideDeepConfig
from tests.models.cases import linear, mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


def features(model: WideDeep, part: str) -> list[str]:
    return list(model.inputs[part].tables)


@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int) -> None:
    schema = mixed_schema(dense)
    model = WideDeep(Fields(schema), WideDeepConfig(embedding_dim=4, mlp=MLPConfig(hidden=(7, 6)))).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    numbers = batch.dense.double().numpy()
    wide, deep = pooled_rows(lookup, "wide", batch), pooled_rows(lookup, "deep", batch).reshape(6, -1)
    expected = linear(model.linear, numbers) + wide.sum((1, 2))
    expected += perceptron(model.mlp, np.concatenate([deep, numbers], 1))[:, 0]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_crosses_are_wide_only_unless_asked() -> None:
    fields = Fields(mixed_schema())
    model = WideDeep(fields, WideDeepConfig())
    assert "user_item" in features(model, "wide")
    assert features(model, "deep") == ["user", "item", "last_item", "tags", "topics"]
    chosen = WideDeep(fields, WideDeepConfig(wide=("user_item",), deep=("*item",)))
    assert features(chosen, "wide") == ["user_item"]
    assert features(chosen, "deep") == ["item", "last_item", "user_item"]


def test_a_misspelt_feature_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'usr'; did you mean 'user'"):
        WideDeep(Fields(mixed_schema()), WideDeepConfig(wide=("usr",)))


def test_deep_dims_may_differ() -> None:
    settings = {"deep/*": TableSettings(embedding_dim=8), "deep/item": TableSettings(embedding_dim=3)}
    schema = mixed_schema()
    model = WideDeep(Fields(schema, settings), WideDeepConfig())
    assert model.mlp.layers[0].in_features == 3 * 8 + 2 * 3 + 3
    assert model(**ReferenceLookup(model)(mixed_batch(schema, 4))).shape == (4,)
