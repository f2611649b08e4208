"""Wide & Deep against its equation, by loops; which features are wide and deep."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.features.hashing import hash_integers, hash_words
from shardrec.data_pipeline.features.id_transforms import Cross, Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.table_settings import TableSettings
from shardrec.models.wide_deep import WideDeep, WideDeepConfig
from tests.models.cases import linear, mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


def features_of(model: WideDeep, part: str) -> list[str]:
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


@pytest.mark.parametrize(
    ("wide", "deep", "wide_dense", "deep_dense"),
    [
        (("user", "user_item"), ("item", "n*"), [], ["n0", "n1", "n2"]),  # the paper's: numbers are deep
        (("user", "n1"), ("item", "n2", "n0"), ["n1"], ["n0", "n2"]),
        (("*",), ("user", "n0"), ["n0", "n1", "n2"], ["n0"]),
        (None, ("item",), ["n0", "n1", "n2"], []),
        (("user",), ("item",), [], []),
    ],
)
def test_parts_choose_dense_features(wide, deep, wide_dense: list[str], deep_dense: list[str]) -> None:
    schema = mixed_schema()
    model = WideDeep(Fields(schema), WideDeepConfig(embedding_dim=4, mlp=MLPConfig(hidden=(7,)), wide=wide, deep=deep))
    model.double()
    lookup = ReferenceLookup(model, dtype=torch.float64, dense_names=["n0", "n1", "n2"])
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    numbers = {name: batch.dense[:, [int(n[1]) for n in names]].double().numpy()
               for name, names in (("wide", wide_dense), ("deep", deep_dense))}  # fmt: skip
    assert (model.linear.weight is None) == (not wide_dense)
    bias = np.full(6, model.linear.bias.item())
    expected = linear(model.linear, numbers["wide"]) if wide_dense else bias
    expected = expected + pooled_rows(lookup, "wide", batch).sum((1, 2))
    rows = pooled_rows(lookup, "deep", batch).reshape(6, -1)
    expected += perceptron(model.mlp, np.concatenate([rows, numbers["deep"]], 1))[:, 0]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_the_wide_part_sums_the_weights_of_a_list_cross() -> None:
    """Installed apps x impression app, the paper's own example: a weight for each pair, times that of the app."""
    ids = Identity(num_ids=5)
    schema = Schema(
        features=(
            IdFeature(name="impression", ids=ids),
            IdListFeature(name="installed", ids=ids, weights="used"),
        )
    )
    schema = CrossedFeatures(features=("installed", "impression"), num_ids=40, name="both").added_to(schema)
    model = WideDeep(Fields(schema), WideDeepConfig(wide=("both",), mlp=MLPConfig(hidden=(3,))))
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(lookup)
    rows = pa.record_batch(
        {"impression": [1, 2, 3], "installed": pa.array([[0, 4, 1], None, [2]]), "used": [[1.0, 0.5, -2.0], [], [3.0]],
         "label": [0, 1, 0]}
    )  # fmt: skip
    layout = Layout(schema, ".")
    batch = layout.collate([layout.block(Chunk(rows, "file", 0, 0))], 4)
    weights, expected = lookup.table("wide/both").detach()[:, 0], [0.0] * 4
    for row, (one, many, used) in enumerate(
        zip(*(rows[name].to_pylist() for name in rows.schema.names[:3]), strict=True)
    ):
        for app, weight in zip(many or [], used, strict=True):
            digests = [hash_integers(np.array([i])) for i in (app, one)]
            expected[row] += weight * float(weights[int(hash_words(digests)[0]) % 40])
    assert lookup(batch)["wide"][:, 0, 0].tolist() == pytest.approx(expected, abs=1e-12) and len(set(expected)) == 3


def test_crosses_are_wide_only_unless_asked() -> None:
    fields = Fields(mixed_schema())
    model = WideDeep(fields, WideDeepConfig())
    assert "user_item" in features_of(model, "wide")
    assert features_of(model, "deep") == ["user", "item", "last_item", "tags", "topics"]
    chosen = WideDeep(fields, WideDeepConfig(wide=("user_item",), deep=("*item",)))
    assert features_of(chosen, "wide") == ["user_item"]
    assert features_of(chosen, "deep") == ["item", "last_item", "user_item"]


def test_crosses_that_preparation_made_are_crosses() -> None:
    features = (
        RecipeId(name="user", ids=FitVocabulary()),
        RecipeId(name="user_city", ids=Cross(columns=("user", "city"), num_ids=9), missing="row"),
    )
    model = WideDeep(Fields(Recipe(features=features).written_schema(Fitted())), WideDeepConfig())
    assert features_of(model, "wide") == ["user", "user_city"] and features_of(model, "deep") == ["user"]


@pytest.mark.parametrize(
    ("names", "config", "line"),
    [
        (["user_item"], WideDeepConfig(), "model: the deep part has no feature, as all are crosses; name some by"),
        (None, WideDeepConfig(wide=()), r"`wide: \[\]` leaves the wide part without a feature"),
        (None, WideDeepConfig(deep=()), r"`deep: \[\]` leaves the deep part without a feature"),
        (
            None,
            WideDeepConfig(wide=("n*",)),
            "`wide` names no id or id_list feature, only n0, n1, n2; name one of them",
        ),
        (["n0"], WideDeepConfig(), "the schema .* has none"),
    ],
)
def test_a_part_without_features_is_one_line(names: list[str] | None, config: WideDeepConfig, line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        WideDeep(Fields(mixed_schema().subset(names)), config)
    assert "\n" not in str(raised.value)


def test_a_misspelt_feature_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'usr'; did you mean 'user'"):
        WideDeep(Fields(mixed_schema()), WideDeepConfig(wide=("usr",)))


def test_deep_dims_may_differ() -> None:
    settings = {"deep/*": TableSettings(embedding_dim=8), "deep/item": TableSettings(embedding_dim=3)}
    schema = mixed_schema()
    model = WideDeep(Fields(schema, settings), WideDeepConfig())
    assert model.mlp.layers[0].in_features == 3 * 8 + 2 * 3 + 3
    assert model(**ReferenceLookup(model)(mixed_batch(schema, 4))).shape == (4,)
