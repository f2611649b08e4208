"""Readers of lists, numbers, labels, weights and groups against plain Python loops over the values."""

from math import log1p, nan
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.dense_transforms import Clip, Log, Standardise
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Bucketize, Hash, Identity
from shardrec.data_pipeline.features.schema import Label
from shardrec.data_pipeline.features.transforms import (
    FeatureReader,
    GroupReader,
    LabelReader,
    WeightReader,
    check_aligned,
)
from tests.data_pipeline.features.readers import INTEGERS, read, refused

# ---------------------------------------------------------------- lists


LISTS = st.lists(st.none() | st.lists(st.integers(0, 9), max_size=6), max_size=20)


@given(LISTS, st.integers(1, 7), st.data())
def test_sequences_keep_the_most_recent(rows: list[list[int] | None], most: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    feature = SequenceFeature(name="s", ids=Identity(num_ids=10), max_length=most)
    expected = [(r or [])[-most:] for r in rows[start:stop]]
    plain = pa.array(rows, pa.list_(pa.int32()))
    views = [pa.array(rows, kind(pa.int32())) for kind in (pa.list_view, pa.large_list_view)]
    for array in (plain, plain.cast(pa.large_list(pa.int64())), *views):
        column = read(feature, array.slice(start, stop - start))
        assert column.lengths is not None
        assert column.lengths.tolist() == [len(r) for r in expected]
        assert column.lengths.dtype == np.int64
        assert column.values.tolist() == [v for r in expected for v in r]


def test_nulls_that_hide_elements_are_empty() -> None:
    array = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 5], pa.int32()), pa.array([1, 2, 3, 4, 5]), mask=pa.array([False, True, False])
    )
    column = read(IdListFeature(name="s", ids=Identity(num_ids=10)), array)
    assert column.lengths is not None
    assert (column.values.tolist(), column.lengths.tolist()) == ([1, 2, 5], [2, 0, 1])


def test_fixed_size_lists() -> None:
    array = pa.array([[1, 2, 3], None, [4, 5, 6], [7, 8, 9]], pa.list_(pa.int16(), 3)).slice(1)
    column = read(SequenceFeature(name="s", ids=Identity(num_ids=10), max_length=2), array)
    assert column.lengths is not None
    assert (column.values.tolist(), column.lengths.tolist()) == ([5, 6, 8, 9], [0, 2, 2])


def test_nulls_and_ranges_within_lists_are_named_by_row() -> None:
    feature = IdListFeature(name="s", ids=Identity(num_ids=5))
    refused(feature, pa.array([[1], [], [2, None]]), "row 102, column 's': found null")
    refused(feature, pa.array([[1], [], [2, 3], [9]]), "row 103, column 's': found 9")
    with_row = feature.model_copy(update={"missing": "row"})
    assert read(with_row, pa.array([[1], None, [2, None]])).values.tolist() == [1, 2, 5]


def test_lists_of_strings_are_hashed() -> None:
    feature = IdListFeature(name="s", ids=Hash(num_ids=50), max_length=1)
    column = read(feature, pa.array([["a", "b"], None, ["c"]]))
    assert column.values.tolist() == [xxhash.xxh64_intdigest(v) % 50 for v in (b"b", b"c")]


@given(st.lists(st.lists(st.floats(-5, 5, width=32), max_size=5), max_size=12), st.integers(1, 6))
def test_weights_go_with_their_ids(weights: list[list[float]], most: int) -> None:
    ids = [list(range(len(w))) for w in weights]
    feature = IdListFeature(name="s", ids=Identity(num_ids=10), weights="w", max_length=most)
    batch = pa.RecordBatch.from_pydict(
        {"s": pa.array(ids, pa.list_(pa.int64())), "w": pa.array(weights, pa.list_(pa.float32()))}
    )
    reader = FeatureReader(feature, ".")
    reader.check(batch.schema, "file")
    column = reader(batch, "file")
    assert column.weights is not None and column.weights.dtype == np.float32
    assert column.values.tolist() == [v for r in ids for v in r[-most:]]
    assert column.weights.tolist() == [w for r in weights for w in r[-most:]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0], [1.0]], "row 1, column 'w': found 1 weights, expected as many as 's' has ids: 2"),
        ([[1.0], [1.0, nan]], "row 1, column 'w': found nan, expected a finite weight"),
        ([[1.0], [None, 1.0]], "row 1, column 'w': found nan, expected a finite weight"),
        ([[1.0], [1.0, -2e30]], "row 1, column 'w': found -2e[+]30, expected .* of magnitude 1e[+]15 at most"),
        ([[1.0], [1.0, 1e300]], "row 1, column 'w': found 1e[+]300, expected a finite weight"),
    ],
)
def test_wrong_weights(weights: list[list[float]], message: str) -> None:
    feature = IdListFeature(name="s", ids=Identity(num_ids=10), weights="w")
    batch = pa.RecordBatch.from_pydict({"s": [[1], [2, 3]], "w": weights})
    with pytest.raises(UserError, match=message):
        FeatureReader(feature, ".")(batch, "file")


def test_aligned_sequences_have_equal_lengths() -> None:
    features = [
        SequenceFeature(name=n, ids=Identity(num_ids=10), max_length=5, aligned="history") for n in ("item", "shop")
    ] + [SequenceFeature(name="other", ids=Identity(num_ids=10), max_length=5)]

    def batch(item: list[int | None], shop: list[int | None]) -> pa.RecordBatch:
        lengths = {"item": item, "shop": shop, "other": [0, *range(len(item) - 1)]}
        lists = {n: [None if n is None else [1] * n for n in x] for n, x in lengths.items()}
        return pa.RecordBatch.from_pydict({n: pa.array(x, pa.list_(pa.int64())) for n, x in lists.items()})

    check_aligned(features, batch([2, 1], [2, 1]), "file")
    check_aligned(features, batch([0, None, 8], [None, 0, 8]), "file")
    message = (
        r"f, row 7: column 'item' has 1 elements and column 'shop' has 3, but both are aligned as 'history'; "
        "make them equally long"
    )
    with pytest.raises(UserError, match=message):
        check_aligned(features, batch([2, 1], [2, 3]), Origin("f", 6))
    with pytest.raises(UserError, match=r"f, row 1: column 'item' has 8 elements and column 'shop' has 7"):
        check_aligned(features, batch([2, 8], [2, 7]), "f")  # both keep 5, but not of the same events
    with pytest.raises(UserError, match=r"f, row 2: column 'item' has 0 elements and column 'shop' has 2"):
        check_aligned(features, batch([2, 8, None, 4], [2, 8, 2, 4]).slice(1), Origin("f", 1))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("kind", [*INTEGERS, pa.float32(), pa.float64(), pa.decimal128(9, 2)])
def test_dense_takes_all_numbers(kind: pa.DataType) -> None:
    column = read(DenseFeature(name="d"), pa.array([1, 0, 5], kind))
    assert column.values.tolist() == [1, 0, 5]
    assert column.values.dtype == np.float32


def test_booleans_are_numbers() -> None:
    feature = DenseFeature(name="d", missing=0.5)
    assert read(feature, pa.array([True, None, False])).values.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.float64()])
def test_missing_dense_values(kind: pa.DataType) -> None:
    array = pa.array([1, None, 3], kind)
    refused(DenseFeature(name="d"), array, "row 101, column 'd': found null, .*`missing` in the schema")
    assert read(DenseFeature(name="d", missing=-1.5), array).values.tolist() == [1, -1.5, 3]


def test_nan_is_missing_and_infinity_is_an_error() -> None:
    refused(DenseFeature(name="d"), pa.array([1.0, nan]), "row 101, column 'd': found nan")
    assert read(DenseFeature(name="d", missing=0.0), pa.array([1.0, nan])).values.tolist() == [1, 0]
    refused(DenseFeature(name="d", missing=0.0), pa.array([1.0, -np.inf]), "found -inf, expected a finite number$")
    refused(DenseFeature(name="d"), pa.array([1.0, 1e300]), "found 1e[+]300, expected a finite number$")
    clipped = DenseFeature(name="d", transforms=(Clip(high=5.0),))
    assert read(clipped, pa.array([1.0, np.inf])).values.tolist() == [1, 5]


def test_a_number_that_squares_would_overflow_of_is_an_error() -> None:
    """A feature's, as transforms leave it; a label goes into the loss alone, which is looked at itself."""
    feature = DenseFeature(name="d")
    assert read(feature, pa.array([1e15, -1e15])).values.tolist() == [np.float32(1e15), -np.float32(1e15)]
    refused(
        feature,
        pa.array([1.0, 3e38], pa.float32()),
        "row 101, column 'd': found 3e[+]38, expected a number of magnitude",
    )
    refused(feature, pa.array([1.0, -1.1e15]), "1e[+]15 at most; scale it, or give it `transforms`")
    logged = DenseFeature(name="d", transforms=(Log(),))
    assert read(logged, pa.array([3e38])).values[0] == pytest.approx(np.log1p(3e38))
    labels = pa.RecordBatch.from_pydict({"label": pa.array([3e38])})
    assert LabelReader(Label())(labels, "f").values[0] == np.float32(3e38)


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=30))
def test_transforms_apply_in_order_after_the_fill(values: list[float | None]) -> None:
    steps = (Clip(low=-1000.0), Log(), Standardise(mean=0.5, deviation=2.0))
    feature = DenseFeature(name="d", transforms=steps, missing=7.0)
    expected = []
    for v in values:
        x = max(7.0 if v is None else v, -1000.0)
        expected.append(((log1p(x) if x >= 0 else -log1p(-x)) - 0.5) / 2.0)
    np.testing.assert_allclose(read(feature, pa.array(values, pa.float64())).values, expected, rtol=1e-6, atol=1e-7)


def test_standardise_is_exact_for_large_numbers() -> None:
    feature = DenseFeature(name="t", transforms=(Standardise(mean=1.4e9, deviation=10.0),))
    assert read(feature, pa.array([1_400_000_005, 1_400_000_010])).values.tolist() == [0.5, 1.0]


def test_labels() -> None:
    batch = pa.RecordBatch.from_pydict({"rating": pa.array([5, 3, 4], pa.int8())})
    assert LabelReader(Label(column="rating"))(batch, "f").values.tolist() == [5, 3, 4]
    assert LabelReader(Label(column="rating", threshold=4))(batch, "f").values.tolist() == [1, 0, 1]
    holes = pa.RecordBatch.from_pydict({"label": [1.0, None, nan]})
    for label in (Label(), Label(threshold=0.5)):
        with pytest.raises(UserError, match="f, row 1, column 'label': found null"):
            LabelReader(label)(holes, "f")
    assert LabelReader(Label(missing=0.0))(holes, "f").values.tolist() == [1, 0, 0]
    assert LabelReader(Label(missing=2.0, threshold=0.5))(holes, "f").values.tolist() == [1, 1, 1]


def test_sample_weights_are_finite_and_not_negative() -> None:
    def weights(*values: float | None) -> list[float]:
        batch = pa.RecordBatch.from_pydict({"w": pa.array(values, pa.float64())})
        return WeightReader("w")(batch, "f").values.tolist()

    assert weights(0.0, 2.5) == [0, 2.5]
    for value, found in ((-1.0, "-1"), (nan, "nan"), (np.inf, "inf"), (None, "null"), (2e30, r"2e\+30")):
        with pytest.raises(UserError, match=f"f, row 1, column 'w': found {found}"):
            weights(1.0, value)


def test_groups_are_integers_or_hashed_strings() -> None:
    reader = GroupReader("g")

    def groups(array: pa.Array) -> list[int]:
        batch = pa.RecordBatch.from_arrays([array], names=["g"])
        reader.check(batch.schema, "f")
        return reader(batch, "f").values.tolist()

    assert groups(pa.array([3, -1], pa.int16())) == [3, -1]
    assert groups(pa.array([3, 4, 3]).dictionary_encode()) == [3, 4, 3]
    signed = [int(np.uint64(xxhash.xxh64_intdigest(v)).view(np.int64)) for v in (b"ann", b"bo", b"ann")]
    for array in (pa.array(["ann", "bo", "ann"]), pa.array(["ann", "bo", "ann"]).dictionary_encode()):
        assert groups(array) == signed
    with pytest.raises(UserError, match="f, row 1, column 'g': found null"):
        groups(pa.array(["a", None]))
    with pytest.raises(UserError, match="f: column 'g' is double, but the group expects integers or strings"):
        groups(pa.array([1.0]))


# ---------------------------------------------------------------- checks of footers


@pytest.mark.parametrize(
    ("feature", "kind", "message"),
    [
        (IdFeature(name="a", ids=Identity(num_ids=3)), pa.string(), "is string, .*expects integers"),
        (IdFeature(name="a", ids=Identity(num_ids=3)), pa.list_(pa.int64()), "is list<.*expects integers"),
        (IdFeature(name="a", ids=Hash(num_ids=3)), pa.float64(), "is double, .*expects integers or strings"),
        (IdFeature(name="a", ids=Bucketize(boundaries=(1,))), pa.string(), "is string, .*expects numbers"),
        (IdListFeature(name="a", ids=Hash(num_ids=3)), pa.string(), "is string, .*expects a list"),
        (SequenceFeature(name="a", ids=Identity(num_ids=3), max_length=2), pa.list_(pa.string()), "expects integers"),
        (DenseFeature(name="a"), pa.string(), "is string, .*expects numbers"),
    ],
)
def test_wrong_types_are_found_in_the_footer(feature: Any, kind: pa.DataType, message: str) -> None:
    with pytest.raises(UserError, match=f"^f.parquet: column 'a' .*{message}"):
        FeatureReader(feature, ".").check(pa.schema([("a", kind)]), "f.parquet")


def test_missing_and_repeated_columns() -> None:
    reader = FeatureReader(IdFeature(name="user_id", ids=Identity(num_ids=3)), ".")
    with pytest.raises(UserError, match="f: unknown column 'user_id'; did you mean 'userid'"):
        reader.check(pa.schema([("userid", pa.int64())]), "f")
    with pytest.raises(UserError, match="f: column 'user_id' is there 2 times"):
        reader.check(pa.schema([("user_id", pa.int64())] * 2), "f")
    for other in (LabelReader(Label(name="user_id")), WeightReader("user_id"), GroupReader("user_id")):
        with pytest.raises(UserError, match="unknown column 'user_id'"):
            other.check(pa.schema([("x", pa.int64())]), "f")


def test_empty_batches() -> None:
    for feature, kind in (
        (IdFeature(name="a", ids=Identity(num_ids=3)), pa.int64()),
        (IdFeature(name="a", ids=Hash(num_ids=3)), pa.string()),
        (SequenceFeature(name="a", ids=Identity(num_ids=3), max_length=2), pa.list_(pa.int64())),
        (DenseFeature(name="a"), pa.float32()),
    ):
        assert len(read(feature, pa.array([], kind)).values) == 0
