"""Crosses declared by a run: what they read, and what cannot be crossed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    FeatureCross,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.hashing import hash_array, hash_words
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import FeatureReader
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId

SCHEMA = Schema(
    features=(
        IdFeature(name="user", column="user_row", ids=Identity(num_ids=40), role="user"),
        IdFeature(name="hour", ids=Identity(num_ids=24), role="context"),
        IdFeature(name="day", ids=Identity(num_ids=7), role="context", missing="row"),
        IdListFeature(name="tags", ids=Identity(num_ids=9)),
        IdListFeature(name="apps", ids=Hash(num_ids=50), weights="minutes", max_length=3, missing="row"),
        IdListFeature(name="ratings", ids=Identity(num_ids=9), weights="stars", weights_are="labels"),
        SequenceFeature(name="history", ids=Identity(num_ids=9), max_length=3),
        DenseFeature(name="price"),
    )
)


def write_vocabulary(folder: Path, name: str, values: list[str]) -> None:
    pq.write_table(pa.table({"value": values}), folder / name)


def test_a_cross_is_the_hash_of_its_features_rows() -> None:
    schema = CrossedFeatures(features=("user", "hour"), num_ids=1000).added_to(SCHEMA)
    assert [f.name for f in schema.features] == [*(f.name for f in SCHEMA.features), "user_x_hour"]
    feature = schema["user_x_hour"]
    assert feature.ids == FeatureCross(features=(SCHEMA["user"], SCHEMA["hour"]), num_ids=1000)
    assert feature.columns == ("user_row", "hour")
    columns = {"user_row": pa.array([3, 3, 39, 0]), "hour": pa.array([5, 6, 5, 0])}
    batch = pa.record_batch(columns)
    digests = hash_words([hash_array(columns["user_row"]), hash_array(columns["hour"])], 0)
    found = FeatureReader(feature, ".")(batch, "here").values
    np.testing.assert_array_equal(found, (digests % np.uint64(1000)).astype(np.int64))
    assert len(set(found.tolist())) == 4


def test_role_and_missing_values_follow_from_the_features() -> None:
    mixed = CrossedFeatures(features=("user", "hour"), num_ids=5).added_to(SCHEMA)["user_x_hour"]
    assert (mixed.role, mixed.missing) == (None, "error")
    pair = SCHEMA.model_copy(
        update={"features": (*SCHEMA.features, IdFeature(name="item", ids=Identity(num_ids=9), role="item"))}
    )
    of_both = CrossedFeatures(features=("user", "item"), num_ids=5).added_to(pair)
    assert of_both["user_x_item"].role == "user_item"
    with_hour = CrossedFeatures(features=("user", "item", "hour"), num_ids=5).added_to(pair)
    assert with_hour["user_x_item_x_hour"].role is None
    schema = CrossedFeatures(features=("hour", "day"), num_ids=5, name="when").added_to(SCHEMA)
    assert (schema["when"].role, schema["when"].num_embeddings) == ("context", 5)
    batch = pa.record_batch({"hour": pa.array([1, 1]), "day": pa.array([2, None])})
    digests = hash_words([hash_array(pa.array(rows)) for rows in ([1, 1], [2, 7])], 0)  # 7: of a missing day
    found = FeatureReader(schema["when"], ".")(batch, "here").values
    np.testing.assert_array_equal(found, (digests % np.uint64(5)).astype(np.int64))
    batch = pa.record_batch({"hour": pa.array([1, None]), "day": pa.array([2, 2])})
    with pytest.raises(UserError, match="row 1, column 'hour': found null"):
        FeatureReader(schema["when"], ".")(batch, "here")


def test_a_cross_is_of_what_its_features_make_of_their_columns(tmp_path: Path) -> None:
    """Numbers of one bucket, values of one hash and all that a vocabulary lacks are one; raw rows and prepared ones."""
    write_vocabulary(tmp_path, "v.parquet", ["a", "b"])
    raw = Schema(
        features=(
            IdFeature(name="age", ids=Bucketize(boundaries=(18, 30)), missing="row"),
            IdFeature(name="word", column="text", ids=Vocabulary(path="v.parquet", size=2)),
            IdFeature(name="city", ids=Hash(num_ids=50, seed=3)),
        )
    )
    made = [
        Identity(num_ids=4, prepared=raw["age"].ids),
        Identity(num_ids=3, prepared=raw["word"].ids, prepared_column="text"),
        Identity(num_ids=50, prepared=raw["city"].ids),
    ]
    prepared = Schema(features=tuple(IdFeature(name=f.name, ids=i) for f, i in zip(raw.features, made, strict=True)))
    values = {"age": [17.5, 3, 18, None], "text": ["a", "a", "c", "d"], "city": ["x", "x", "y", "y"]}
    batch = pa.record_batch({name: pa.array(column) for name, column in values.items()})
    rows = {f.name: FeatureReader(f, tmp_path)(batch, "here").values for f in raw.features}
    assert rows["age"].tolist() == [0, 0, 1, 3] and rows["word"].tolist() == [1, 1, 0, 0]
    cross = CrossedFeatures(features=("age", "word", "city"), num_ids=10_000, name="all")
    of_raw = FeatureReader(cross.added_to(raw)["all"], tmp_path)
    of_raw.check(batch.schema, "here")
    found = of_raw(batch, "here").values
    digests = hash_words([hash_array(pa.array(rows[name])) for name in rows], 0)
    np.testing.assert_array_equal(found, (digests % np.uint64(10_000)).astype(np.int64))
    assert found[0] == found[1] and len(set(found.tolist())) == 3

    written = cross.added_to(prepared)
    written.save(tmp_path / "schema.yaml")
    written = Schema.load(tmp_path / "schema.yaml")
    assert cross.added_to(written) == written
    of_rows = FeatureReader(written["all"], tmp_path)(pa.record_batch(rows), "here").values
    of_served = FeatureReader(written.raw()["all"], tmp_path)(batch, "here").values
    assert found.tolist() == of_rows.tolist() == of_served.tolist()
    assert (written.vocabularies, written.raw().vocabularies) == ((), ("v.parquet",))
    with pytest.raises(UserError, match="column 'city' is double"):
        of_raw.check(pa.record_batch({**rows, "text": batch["text"], "city": pa.array([0.5] * 4)}).schema, "here")


def test_a_cross_of_a_cross_reads_all_columns() -> None:
    schema = CrossedFeatures(features=("user", "hour"), num_ids=5).added_to(SCHEMA)
    schema = CrossedFeatures(features=("user_x_hour", "day"), num_ids=7, name="all").added_to(schema)
    assert schema["all"].columns == ("user_row", "hour", "day")


def test_adding_a_cross_twice_changes_nothing() -> None:
    cross = CrossedFeatures(features=("user", "hour"), num_ids=1000)
    once = cross.added_to(SCHEMA)
    assert cross.added_to(once) == once
    assert cross.added_to(once.subset(["user_x_hour"])) == once.subset(["user_x_hour"])
    for other in (
        CrossedFeatures(features=("user", "hour"), num_ids=1001),
        CrossedFeatures(features=("user", "day"), num_ids=1000, name="user_x_hour"),
    ):
        with pytest.raises(UserError, match="'user_x_hour' already, and it is not the cross of user"):
            other.added_to(once)
    hour = IdFeature(name="hour", ids=Hash(num_ids=24))  # not what the cross was made of
    changed = once.model_copy(update={"features": (SCHEMA["user"], hour, once["user_x_hour"])})
    with pytest.raises(UserError, match="'user_x_hour' already"):
        cross.added_to(changed)


def test_a_cross_that_preparation_made_is_one() -> None:
    features = (
        RecipeId(name="user", ids=FitVocabulary()),
        RecipeId(name="user_city", ids=Cross(columns=("user", "city"), num_ids=9), missing="row"),
    )
    written = Recipe(features=features).written_schema(Fitted())
    assert isinstance(written["user_city"].ids, Identity)
    assert (written["user_city"].cross, written["user"].cross) == (features[1].ids, None)
    named = {"features": ("user", "city"), "name": "user_city"}
    assert CrossedFeatures(**named, num_ids=9).added_to(written) == written
    with pytest.raises(UserError, match="'user_city' already"):
        CrossedFeatures(**named, num_ids=8).added_to(written)


@pytest.mark.parametrize(
    ("features", "line"),
    [
        (("usr", "hour"), "unknown feature 'usr'; did you mean 'user'"),
        (("user", "ratings"), "the weights of feature 'ratings' are labels"),
        (("user", "history"), "'history' is of kind sequence"),
        (("price", "user"), "'price' is of kind dense"),
        (("user", "then"), "feature 'then' has place: next; a cross is of the row's own features"),
    ],
)
def test_what_cannot_be_crossed(features: tuple[str, ...], line: str) -> None:
    then = IdFeature(name="then", ids=Identity(num_ids=24), table="hour", place="next", of="hour")
    schema = SCHEMA.model_copy(update={"features": (*SCHEMA.features, then)})
    with pytest.raises(UserError, match=line) as caught:
        CrossedFeatures(features=features, num_ids=5).added_to(schema)
    assert "\n" not in str(caught.value) and "_x_" in str(caught.value)


@pytest.mark.parametrize(("features", "line"), [(("user",), "two or more"), (("user", "user"), "with itself")])
def test_too_few_features(features: tuple[str, ...], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        CrossedFeatures(features=features, num_ids=5)
