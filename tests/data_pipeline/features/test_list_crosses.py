"""Crosses with lists against nested Python loops: which combinations, their weights, and which of them are kept."""

from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.combinations import MOST_COMBINATIONS
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import Column, FeatureReader
from shardrec.data_pipeline.prepare.steps.recipe_features import RecipeIdList
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.parquet import Chunk

IDS = Identity(num_ids=5)
SCHEMA = Schema(
    features=(
        IdFeature(name="shown", ids=IDS, missing="row", role="item"),
        IdListFeature(name="installed", ids=IDS, missing="row", role="user"),
        IdListFeature(name="used", ids=IDS, weights="minutes", max_length=2, role="user"),
        IdListFeature(name="liked", ids=IDS, weights="stars"),
    ),
    labels=(),
)
LISTS = ("installed", "used", "liked")
BESIDE = {"used": "minutes", "liked": "stars"}


def crossed(*features: str, num_ids: int = 997, **more: Any) -> Schema:
    return CrossedFeatures(features=features, num_ids=num_ids, name="x", **more).added_to(SCHEMA)


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    lists = {name: pa.array([row[name] for row in rows], pa.list_(pa.int64())) for name in LISTS}
    weights = {column: pa.array([row[column] for row in rows], pa.list_(pa.float32())) for column in BESIDE.values()}
    return pa.record_batch({"shown": pa.array([row["shown"] for row in rows], pa.int64()), **lists, **weights})


def read(schema: Schema, rows: list[dict[str, Any]]) -> Column:
    reader = FeatureReader(schema["x"], ".")
    batch = batch_of(rows)
    reader.check(batch.schema, "file")
    return reader(batch, "file")


def hashed(rows: tuple[int, ...], num_ids: int) -> int:
    """The row of a combination, by another implementation of XXH64."""
    digests = (xxhash.xxh64_intdigest(row.to_bytes(8, "little")).to_bytes(8, "little") for row in rows)
    return xxhash.xxh64_intdigest(b"".join(digests)) % num_ids


def parts_of(row: dict[str, Any], name: str) -> list[tuple[int, float]]:
    """The table rows that one feature has in a row, each with its weight; a null id has the row after the others."""
    feature = SCHEMA[name]
    values = [row[name]] if name == "shown" else row[name] or []
    weights = (row[BESIDE[name]] or []) if name in BESIDE else [1.0] * len(values)
    pairs = [(5 if i is None else i, w) for i, w in zip(values, weights, strict=True)]
    return pairs[-feature.max_length :] if name == "used" else pairs


@st.composite
def rows_of_lists(draw: Any) -> list[dict[str, Any]]:
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        row: dict[str, Any] = {"shown": draw(st.none() | st.integers(0, 4))}
        row["installed"] = draw(st.none() | st.lists(st.none() | st.integers(0, 4), max_size=4))
        for name, column in BESIDE.items():
            row[name] = draw(st.lists(st.integers(0, 4), max_size=3))
            row[column] = [draw(st.integers(-8, 8)) / 4 for _ in row[name]]
        rows.append(row)
    return rows


@given(
    rows_of_lists(),
    st.lists(st.sampled_from(["shown", *LISTS]), min_size=2, max_size=4, unique=True),
    st.none() | st.integers(1, 7),
)
def test_each_combination_is_one_id(rows: list[dict[str, Any]], names: list[str], most: int | None) -> None:
    schema = crossed(*names, max_length=most)
    found, lengths, ids, weights = read(schema, rows), [], [], []
    for row in rows:
        made = list(product(*(parts_of(row, name) for name in names)))  # the last feature's ids go fastest
        made = made if most is None else made[-most:]
        lengths.append(len(made))
        ids += [hashed(tuple(i for i, _ in combination), 997) for combination in made]
        weights += [prod(w for _, w in combination) for combination in made]
    assert found.lengths is not None and (found.lengths.tolist(), found.values.tolist()) == (lengths, ids)
    assert schema["x"].weighted == bool(set(names) & set(BESIDE))
    if schema["x"].weighted:
        assert found.weights is not None and found.weights.dtype == np.float32 and found.weights.tolist() == weights
    else:
        assert found.weights is None


def test_rows_of_one_id_each_are_hashed_as_the_cross_of_single_ids() -> None:
    single = FeatureCross(features=(SCHEMA["shown"], SCHEMA["shown"]), num_ids=10**9)
    lists = crossed("shown", "installed", num_ids=10**9)
    rows = [{"shown": i, "installed": [i], **dict.fromkeys(("used", "minutes", "liked", "stars"))} for i in range(5)]
    expected = FeatureReader(IdFeature(name="y", ids=single), ".")(batch_of(rows), "file").values
    np.testing.assert_array_equal(read(lists, rows).values, expected)


def test_a_cross_with_a_list_is_a_list_of_the_role_that_all_have(tmp_path: Path) -> None:
    schema = crossed("installed", "used", max_length=3)
    assert schema["x"] == IdListFeature(
        name="x",
        role="user",
        max_length=3,
        ids=FeatureCross(features=(SCHEMA["installed"], SCHEMA["used"]), num_ids=997),
    )
    assert schema["x"].columns == ("installed", "used", "minutes") and schema["x"].cross is schema["x"].ids
    schema = CrossedFeatures(features=("x", "shown"), num_ids=7, name="all").added_to(schema)  # a cross of that cross
    assert schema["all"].role == "user_item" and schema["all"].weighted
    schema.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == schema
    again = CrossedFeatures(features=("installed", "used"), num_ids=997, name="x", max_length=3)
    assert again.added_to(schema) == schema
    with pytest.raises(UserError, match="already, and it is not the cross of installed, used into 997 rows of max_"):
        again.model_copy(update={"max_length": 4}).added_to(schema)
    rows = [{"shown": 1, "installed": [0, 1, 2], "used": [3, 4], "minutes": [2.0, 3.0], "liked": [], "stars": []}]
    found = FeatureReader(schema["all"], ".")(batch_of(rows), "file")
    inner = [hashed(pair, 997) for pair in ((1, 4), (2, 3), (2, 4))]
    assert found.values.tolist() == [hashed((i, 1), 7) for i in inner] and found.weights.tolist() == [3.0, 2.0, 3.0]


def test_served_rows_get_the_ids_of_prepared_ones() -> None:
    bounds = Bucketize(boundaries=(10.0, 20.0))
    ids = Identity(num_ids=3, prepared=bounds, prepared_column="age")
    schema = Schema(features=(IdListFeature(name="ages", ids=ids), IdFeature(name="a", ids=IDS)), labels=())
    schema = CrossedFeatures(features=("ages", "a"), num_ids=99, name="x").added_to(schema)
    prepared = pa.record_batch({"ages": pa.array([[0, 2], []], pa.list_(pa.int64())), "a": pa.array([1, 2])})
    raw = pa.record_batch({"age": pa.array([[3.0, 25.0], None]), "a": pa.array([1, 2])})
    found, served = FeatureReader(schema["x"], ".")(prepared, "f"), FeatureReader(schema.raw()["x"], ".")(raw, "f")
    assert found.values.tolist() == served.values.tolist() == [hashed((0, 1), 99), hashed((2, 1), 99)]


def test_columns_are_crossed_as_lists_too() -> None:
    feature = IdListFeature(name="x", ids=Cross(columns=("words", "day"), num_ids=97, seed=3), max_length=2)
    words = pa.array([["a", "b", "a"], None, ["c"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    batch = pa.record_batch({"words": words, "day": pa.array([5, 6, 7], pa.int8())})
    reader = FeatureReader(feature, ".")
    reader.check(batch.schema, "file")
    found = reader(batch, "file")
    single = IdFeature(name="x", ids=feature.ids)
    of_pairs = pa.record_batch({"words": ["b", "a", "c"], "day": pa.array([5, 5, 7])})
    np.testing.assert_array_equal(found.values, FeatureReader(single, ".")(of_pairs, "file").values)
    assert found.lengths is not None and found.lengths.tolist() == [2, 0, 1]
    nothing = pa.record_batch({"words": pa.array([["a"], ["c", None]]), "day": pa.array([5, 7])})
    with pytest.raises(UserError, match="file, row 1, column 'words': found null, expected an id"):
        reader(nothing, "file")
    with pytest.raises(UserError, match=r"column 'words' is list<.*'x' expects integers or strings to hash"):
        FeatureReader(single, ".").check(batch.schema, "file")


def many(ids: int, **of_row: Any) -> dict[str, Any]:
    row = {"shown": 1, "installed": [1] * ids, "used": [], "minutes": [], "liked": [0] * ids, "stars": [2.0] * ids}
    return row | of_row


def test_too_many_combinations_of_a_row() -> None:
    rows = [many(2), many(31), many(32), many(40)]
    with pytest.raises(UserError) as error:
        read(crossed("installed", "liked"), rows)
    assert str(error.value) == (
        "file, row 2: feature 'x' crosses 32 x 32 ids, which are 1,024 combinations, expected 1,000 at most; "
        "give the cross a `max_length`, which keeps the last ones"
    )
    assert read(crossed("installed", "liked"), rows[:2]).lengths.tolist() == [4, 961]
    assert read(crossed("installed", "liked", max_length=1000), rows).lengths.tolist() == [4, 961, 1000, 1000]
    huge = [many(60_000)]  # 3.6e9 combinations, of which none but the last are made
    assert read(crossed("installed", "liked", max_length=5), huge).weights.tolist() == [2.0] * 5
    with pytest.raises(UserError, match=r"file, row 0: feature 'x' multiplies weights to 1e\+20, expected a magn"):
        read(crossed("used", "liked"), [many(1, used=[1], minutes=[1e10], stars=[1e10])])


@pytest.mark.parametrize(
    ("features", "line"),
    [
        (
            "{kind: id_list, name: x, ids: {kind: feature_cross, num_ids: 9, features: [{name: a, ids: IDS}, "
            "{kind: sequence, name: b, ids: IDS, max_length: 3}]}}",
            "unknown kind 'sequence'; expected 'id', 'id_list'",
        ),
        (
            "{kind: id, name: x, ids: {kind: feature_cross, num_ids: 9, features: [{name: a, ids: IDS}, "
            "{kind: id_list, name: b, ids: IDS}]}}",
            "kind must be id_list for a feature_cross with a list",
        ),
        (
            "{kind: id_list, name: x, ids: {kind: feature_cross, num_ids: 9, features: [{name: a, ids: IDS}, "
            "{name: b, ids: IDS}]}}",
            "kind must be id_list for a feature_cross with a list among its features, and else id",
        ),
        (
            "{kind: id_list, name: x, weights: w, ids: {kind: cross, num_ids: 9, columns: [a, b]}}",
            "a cross takes `weights` from what it is of",
        ),
        (
            "{kind: sequence, name: x, max_length: 3, ids: {kind: cross, num_ids: 9, columns: [a, b]}}",
            "kind must be id",
        ),
        (
            "{kind: id_list, name: x, ids: {kind: feature_cross, num_ids: 9, features: [{name: a, ids: IDS}, "
            "{kind: id_list, name: b, ids: IDS, weights: w, weights_are: labels}]}}",
            "a cross with 'b' would give its labels away",
        ),
    ],
)
def test_crosses_that_a_schema_cannot_have(tmp_path: Path, features: str, line: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(f"features: [{features.replace('IDS', '{kind: identity, num_ids: 3}')}]")
    with pytest.raises(UserError, match=line) as error:
        Schema.load(path)
    assert "\n" not in str(error.value)


def test_what_else_cannot_be_crossed() -> None:
    schema = Schema(features=(SCHEMA["shown"], IdFeature(name="hour", ids=IDS)), labels=())
    with pytest.raises(
        UserError, match=r"data\.crosses: 'x' has a max_length, but its features have one id a row each"
    ):
        CrossedFeatures(features=("shown", "hour"), num_ids=9, name="x", max_length=3).added_to(schema)
    with pytest.raises(ValueError, match="a recipe crosses single values: kind must be id"):
        RecipeIdList(name="x", ids=Cross(columns=("a", "b"), num_ids=9))


def test_many_rows_are_crossed_by_pieces() -> None:
    """More than are in work at once, with the row of what is wrong in the last piece."""
    used = {"used": [3], "minutes": [1e10]}
    rows = [many(30, **used) for _ in range(200)] + [many(0), many(1)]
    found = read(crossed("installed", "liked", max_length=899), rows)
    assert found.lengths.tolist() == [899] * 200 + [0, 1]
    assert found.weights.tolist() == [2.0] * len(found.values) and set(found.values) == {hashed((1, 0), 997)}
    with pytest.raises(UserError, match=r"file, row 201: feature 'x' multiplies weights to 1e\+20"):
        read(crossed("installed", "liked", "used"), [*rows[:-1], many(1, stars=[1e10], **used)])
    words = Cross(columns=("installed", "liked"), num_ids=9)
    batch = batch_of([*rows[:-1], many(1, installed=[None])])
    with pytest.raises(UserError, match="file, row 201, column 'installed': found null, expected an id"):
        FeatureReader(IdListFeature(name="x", ids=words), ".")(batch, "file")


def test_row_bytes_count_combinations() -> None:
    rows = [many(20, used=[0, 1], minutes=[1.0, 1.0]) for _ in range(500)]
    means = {"installed": 20.0, "used": 2.0, "liked": 20.0}
    for schema, expected in (
        (crossed("installed", "liked"), 400),
        (crossed("installed", "used", "shown"), 40),
        (crossed("installed", "liked", max_length=7), 7),
    ):
        layout = Layout(schema.subset(["x"]), ".")
        block = layout.block(Chunk(batch_of(rows), "file", 0, 0))
        assert block.lists[0].lengths.tolist() == [expected] * 500
        assert 0.9 < block.nbytes / (layout.row_bytes(means) * 500) < 1.1
    assert MOST_COMBINATIONS == 1000  # as docs/run-files.md says
