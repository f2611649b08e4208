"""Crosses declared by a run: what they read, and what cannot be crossed."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from data_pipeline.crosses import CrossedFeatures
from data_pipeline.errors import UserError
from data_pipeline.hashing import hash_array, hash_words
from data_pipeline.schema import (
    Cross,
    DenseFeature,
    Identity,
    IdFeature,
    IdListFeature,
    Schema,
    SequenceFeature,
)
from data_pipeline.transforms import FeatureReader

SCHEMA = Schema(
    features=(
        IdFeature(name="user", column="user_row", ids=Identity(num_ids=40), role="user"),
        IdFeature(name="hour", ids=Identity(num_ids=24), role="context"),
        IdFeature(name="day", ids=Identity(num_ids=7), role="context", missing="row"),
        IdListFeature(name="tags", ids=Identity(num_ids=9)),
        SequenceFeature(name="history", ids=Identity(num_ids=9), max_length=3),
        DenseFeature(name="price"),
    )
)


def test_a_cross_is_the_hash_of_its_features_columns() -> None:
    schema = CrossedFeatures(features=("user", "hour"), num_ids=1000).added_to(SCHEMA)
    assert [f.name for f in schema.features] == [*(f.name for f in SCHEMA.features), "user_x_hour"]
    feature = schema["user_x_hour"]
    assert feature.ids == Cross(columns=("user_row", "hour"), num_ids=1000)
    columns = {"user_row": pa.array([3, 3, 39, 0]), "hour": pa.array([5, 6, 5, 0])}
    batch = pa.record_batch(columns)
    digests = hash_words([hash_array(columns["user_row"]), hash_array(columns["hour"])], 0)
    found = FeatureReader(feature, ".")(batch, "here").values
    np.testing.assert_array_equal(found, (digests % np.uint64(1000)).astype(np.int64))
    assert len(set(found.tolist())) == 4


def test_role_and_missing_values_follow_from_the_features() -> None:
    mixed = CrossedFeatures(features=("user", "hour"), num_ids=5).added_to(SCHEMA)["user_x_hour"]
    assert (mixed.role, mixed.missing) == (None, "error")
    schema = CrossedFeatures(features=("hour", "day"), num_ids=5, name="when").added_to(SCHEMA)
    assert (schema["when"].role, schema["when"].num_embeddings) == ("context", 6)
    batch = pa.record_batch({"hour": pa.array([1, 1]), "day": pa.array([2, None])})
    assert FeatureReader(schema["when"], ".")(batch, "here").values[1] == 5


def test_a_cross_of_a_cross_reads_all_columns() -> None:
    schema = CrossedFeatures(features=("user", "hour"), num_ids=5).added_to(SCHEMA)
    schema = CrossedFeatures(features=("user_x_hour", "day"), num_ids=7, name="all").added_to(schema)
    assert schema["all"].columns == ("user_row", "hour", "day")


def test_adding_a_cross_twice_changes_nothing() -> None:
    cross = CrossedFeatures(features=("user", "hour"), num_ids=1000)
    once = cross.added_to(SCHEMA)
    assert cross.added_to(once) == once
    assert cross.added_to(once.subset(["user_x_hour"])) == once.subset(["user_x_hour"])
    with pytest.raises(UserError, match="'user_x_hour' already"):
        CrossedFeatures(features=("user", "hour"), num_ids=1001).added_to(once)


@pytest.mark.parametrize(
    ("features", "line"),
    [
        (("usr", "hour"), "unknown feature 'usr'; did you mean 'user'"),
        (("user", "tags"), "'tags' is of kind id_list"),
        (("user", "history"), "'history' is of kind sequence"),
        (("price", "user"), "'price' is of kind dense"),
    ],
)
def test_what_cannot_be_crossed(features: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        CrossedFeatures(features=features, num_ids=5).added_to(SCHEMA)
    assert "\n" not in str(caught.value) and "_x_" in str(caught.value)


@pytest.mark.parametrize(("features", "line"), [(("user",), "two or more"), (("user", "user"), "with itself")])
def test_too_few_features(features: tuple[str, ...], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        CrossedFeatures(features=features, num_ids=5)
