"""Ids of all kinds against plain Python loops over the values."""

from math import isnan, nan
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.transforms import (
    FeatureReader,
)
from shardrec.data_pipeline.features.vocabulary import Lookup
from tests.data_pipeline.features.readers import INTEGERS, STRINGS, read, refused

# ---------------------------------------------------------------- raw


@pytest.mark.parametrize("kind", [*INTEGERS, pa.dictionary(pa.int8(), pa.int64())])
def test_raw_integers_are_their_own_ids(kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    most = (1 << (plain.bit_width - pa.types.is_signed_integer(plain))) - 1
    values = pa.array([3, most, None, 0], plain)
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values
    column = read(IdFeature(name="a", ids=Raw(), missing="row"), values)
    as_signed = most - (1 << 64) if most >= 1 << 63 else most
    assert column.values.tolist() == [3, as_signed, -(2**63), 0]
    assert column.values.dtype == np.int64


@pytest.mark.parametrize("kind", STRINGS)
def test_raw_strings_are_their_hashes(kind: pa.DataType) -> None:
    values = ["a", None, "", "ü", "a"]
    array = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values).cast(kind)
    hashes = [xxhash.xxh64_intdigest(v.encode()) if v is not None else 1 << 63 for v in values]
    found = read(IdFeature(name="a", ids=Raw(), missing="row"), array)
    assert found.values.tolist() == [h - (1 << 64) if h >> 63 else h for h in hashes]
    refused(IdFeature(name="a", ids=Raw()), array, "row 101, column 'a': found null")
    refused(IdFeature(name="a", ids=Raw()), pa.array([0.5]), r"is double, .* integers or strings \(ids: raw\)")


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("kind", [*INTEGERS, pa.dictionary(pa.int8(), pa.int32())])
def test_identity_takes_integers_of_any_width(kind: pa.DataType) -> None:
    column = read(IdFeature(name="a", ids=Identity(num_ids=100)), pa.array([3, 99, 0, 3], kind))
    assert column.values.tolist() == [3, 99, 0, 3]
    assert column.values.dtype == np.int64
    assert column.lengths is None and column.weights is None


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()])
@pytest.mark.parametrize("num_ids", [100, 127, 128, 2**31, 2**40, 2**63 - 1])
def test_identity_checks_the_range(kind: pa.DataType, num_ids: int) -> None:
    signed = pa.types.is_signed_integer(kind)
    highest = (1 << (kind.bit_width - signed)) - 1
    feature = IdFeature(name="a", ids=Identity(num_ids=num_ids))
    good = min(highest, num_ids - 1)
    assert read(feature, pa.array([0, good], kind)).values.tolist() == [0, good]
    if signed:
        refused(
            feature, pa.array([0, -1, -2], kind), rf"row group 2, row 101, column 'a': found -1, .*\[0, {num_ids}\)"
        )
    if highest >= num_ids:
        refused(feature, pa.array([0, 1, num_ids], kind), f"row 102, column 'a': found {num_ids}, expected an id in")


def test_null_ids_are_errors_or_the_last_row() -> None:
    values = pa.array([1, None, 0], pa.int32())
    refused(IdFeature(name="a", ids=Identity(num_ids=5)), values, "row 101, column 'a': found null, .*missing: row")
    feature = IdFeature(name="a", ids=Identity(num_ids=5), missing="row")
    assert read(feature, values).values.tolist() == [1, 5, 0]
    assert feature.num_embeddings == 6


@given(st.data())
def test_sliced_batches_read_as_their_rows(data: st.DataObject) -> None:
    values = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=30))
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    feature = IdFeature(name="a", ids=Identity(num_ids=10), missing="row")
    for array in (pa.array(values, pa.int32()), pa.array(values, pa.int64()).dictionary_encode()):
        found = read(feature, array.slice(start, stop - start)).values.tolist()
        assert found == [10 if v is None else v for v in values[start:stop]]


# ---------------------------------------------------------------- hash, cross, bucketize, vocabulary


@pytest.mark.parametrize("kind", STRINGS)
def test_hash_of_strings(kind: pa.DataType) -> None:
    values = ["a", None, "", "ü", "a"]
    feature = IdFeature(name="a", ids=Hash(num_ids=1000, seed=5), missing="row")
    expected = [1000 if v is None else xxhash.xxh64_intdigest(v.encode(), 5) % 1000 for v in values]
    array = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values).cast(kind)
    assert read(feature, array).values.tolist() == expected


def test_nulls_inside_a_dictionary_are_missing() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    feature = IdFeature(name="a", ids=Hash(num_ids=10))
    assert read(feature.model_copy(update={"missing": "row"}), array).values.tolist()[1:] == [10, 10]
    refused(feature, array, "row 101, column 'a': found null")


def test_cross_hashes_the_hashes_of_its_columns() -> None:
    feature = IdFeature(name="x", ids=Cross(columns=("a", "b"), num_ids=97, seed=3), missing="row")
    batch = pa.RecordBatch.from_pydict({"a": ["p", "q", None, "p"], "b": pa.array([5, -1, 5, 5], pa.int16())})
    reader = FeatureReader(feature, ".")
    reader.check(batch.schema, "file")

    def expected(a: str, b: int) -> int:
        parts = (a.encode(), b.to_bytes(8, "little", signed=True))
        return xxhash.xxh64_intdigest(b"".join(xxhash.xxh64(p).digest()[::-1] for p in parts), 3) % 97

    assert reader(batch, "file").values.tolist() == [expected("p", 5), expected("q", -1), 97, expected("p", 5)]
    assert reader.columns == ("a", "b")


@given(st.lists(st.floats(-100, 100) | st.none() | st.just(nan), max_size=40))
def test_bucketize(values: list[float | None]) -> None:
    bounds = (-10.0, 0.0, 2.5, 50.0)
    feature = IdFeature(name="a", ids=Bucketize(boundaries=bounds), missing="row")
    expected = [5 if v is None or isnan(v) else sum(v >= b for b in bounds) for v in values]
    assert read(feature, pa.array(values, pa.float64())).values.tolist() == expected


def test_bucketize_takes_integers_and_refuses_nan() -> None:
    feature = IdFeature(name="a", ids=Bucketize(boundaries=(1, 3)))
    assert read(feature, pa.array([0, 1, 2, 3], pa.int8())).values.tolist() == [0, 1, 1, 2]
    refused(feature, pa.array([0.0, nan]), "row 101, column 'a': found NaN")


def vocabulary(folder: Path, values: pa.Array) -> Vocabulary:
    pq.write_table(pa.table({"value": values, "count": pa.array([1] * len(values))}), folder / "v.parquet")
    return Vocabulary(path="v.parquet", size=len(values))


@pytest.mark.parametrize("kind", STRINGS)
def test_vocabulary_of_strings(tmp_path: Path, kind: pa.DataType) -> None:
    ids = vocabulary(tmp_path, pa.array(["b", "a", ""]))
    feature = IdFeature(name="f", ids=ids, missing="row")
    plain = pa.array(["a", "zz", None, "b", "", "a"])
    array = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)
    assert read(feature, array, tmp_path).values.tolist() == [2, 0, 4, 1, 3, 2]
    assert feature.num_embeddings == 5


@given(st.sets(st.integers(-50, 50)), st.lists(st.integers(-60, 60), max_size=50))
def test_vocabulary_rows_equal_a_dictionary_lookup(known: set[int], values: list[int]) -> None:
    rows = {v: i + 1 for i, v in enumerate(known)}
    for make in (lambda x: pa.array(list(x), pa.int64()), lambda x: pa.array([str(v) for v in x], pa.string())):
        found = Lookup(make(known)).rows(make(values)).tolist()
        assert found == [rows.get(v, 0) for v in values]


def test_vocabulary_of_integers_takes_integers_only(tmp_path: Path) -> None:
    feature = IdFeature(name="f", ids=vocabulary(tmp_path, pa.array([7, 5], pa.int32())))
    assert read(feature, pa.array([5, 6, 7], pa.int16()), tmp_path).values.tolist() == [2, 0, 1]
    refused(feature, pa.array(["5"]), "column 'f' is string, .* expects integers as in the vocabulary", tmp_path)


def test_vocabulary_files_that_are_not_the_schemas(tmp_path: Path) -> None:
    feature = IdFeature(name="f", ids=Vocabulary(path="v.parquet", size=2))
    refused(feature, pa.array(["5"]), "v.parquet: no such vocabulary file", tmp_path)
    (tmp_path / "v.parquet").write_bytes(b"PAR1 not parquet")
    refused(feature, pa.array(["5"]), "v.parquet: unreadable", tmp_path)
    vocabulary(tmp_path, pa.array(["a"]))
    refused(feature, pa.array(["5"]), "found 1 rows .* expects 2", tmp_path)
    vocabulary(tmp_path, pa.array(["a", "a"]))
    refused(feature, pa.array(["5"]), "value 'a' is there twice", tmp_path)


# ---------------------------------------------------------------- what would take minutes, or all memory


@pytest.mark.parametrize("kind", STRINGS)
def test_a_string_of_many_kilobytes_is_no_id(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["a", None, "x" * 70_000])
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    feature = IdFeature(name="f", ids=Hash(num_ids=5), missing="row")
    refused(feature, values, r"row 102, column 'f': found a string of 70,000 bytes, expected .* 65,536 bytes", tmp_path)
    feature = IdFeature(name="f", ids=vocabulary(tmp_path, pa.array(["x" * 70_000])))
    with pytest.raises(UserError, match=r"v.parquet: a string of 70,000 bytes"):
        read(feature, pa.array(["a"]), tmp_path)


def test_a_vocabulary_of_another_size_is_not_read(tmp_path: Path) -> None:
    ids = vocabulary(tmp_path, pa.array([1]))
    content = bytearray((tmp_path / "v.parquet").read_bytes())
    content[4:12] = b"no pages"
    (tmp_path / "v.parquet").write_bytes(content)
    feature = IdFeature(name="f", ids=ids.model_copy(update={"size": 2**40}))
    refused(feature, pa.array([5]), "found 1 rows .* expects 1099511627776", tmp_path)
