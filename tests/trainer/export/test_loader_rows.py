"""The loader reads rows as the data pipeline does: the same table rows and numbers, errors where that has errors."""

import itertools
import tempfile
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.dense_transforms import Clip, Log, Standardise
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    FeatureCross,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.hashing import hash_array
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import FeatureReader, check_aligned
from shardrec.trainer.export.loader import Bundle, RowError
from tests.trainer.export.bundles import bundle_of

WORDS = ["", "a", "b", "é" * 5, "x" * 31, "y" * 40, "sechsundsechzig Zeichen " * 3]
NUMBERS = [-7, 0, 3, 2**40]
_count = itertools.count()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        pq.write_table(pa.table({"value": WORDS[1:]}), path / "words.parquet")
        pq.write_table(pa.table({"value": NUMBERS[1:]}), path / "numbers.parquet")
        pq.write_table(pa.table({"value": pa.array([], pa.string())}), path / "none.parquet")
        yield path


texts = st.sampled_from(WORDS) | st.text(max_size=70)
integers = st.sampled_from(NUMBERS) | st.integers(-(2**63), 2**63 - 1)
rows_of_a_table = st.integers(0, 9)
numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.5, 2.0, float("nan"), float("inf"), 1e20])

_STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
_INTEGERS = [pa.int64(), pa.dictionary(pa.int8(), pa.int64())]
_FLOATS = [pa.float64(), pa.float32()]


def _ids() -> st.SearchStrategy[tuple[Any, Any, list[pa.DataType]]]:
    """What makes ids, values that it is given, and the Arrow types that they come in."""
    return st.sampled_from(
        [
            (Identity(num_ids=10), rows_of_a_table, [*_INTEGERS, pa.int32(), pa.uint8()]),
            (Identity(num_ids=10), st.integers(-2, 11), [pa.int64(), pa.int8()]),
            (Hash(num_ids=1000), texts, _STRINGS),
            (Hash(num_ids=2**40, seed=7), integers, _INTEGERS),
            (Hash(num_ids=10), st.booleans(), [pa.bool_()]),
            (Hash(num_ids=1000), st.integers(2**62, 2**64 - 1), [pa.uint64()]),
            (Raw(), texts, _STRINGS),
            (Raw(), integers, _INTEGERS),
            (Vocabulary(path="words.parquet", size=6), texts, _STRINGS),
            (Vocabulary(path="numbers.parquet", size=3), integers, _INTEGERS),
            (Vocabulary(path="none.parquet", size=0), texts, _STRINGS),
            (Bucketize(boundaries=(0.1, 1.5, 2.0)), numbers, _FLOATS),
            (Bucketize(boundaries=(0.0,)), st.integers(-3, 3), [pa.int32()]),
        ]
    )


def _steps() -> st.SearchStrategy[tuple[Any, ...]]:
    step = st.sampled_from(
        [Log(), Standardise(mean=0.3, deviation=2.7), Clip(low=-1.0), Clip(low=0.1, high=50.0), Clip()]
    )
    return st.lists(step, max_size=3).map(tuple)


@st.composite
def features(draw: Any, name: str) -> tuple[Any, dict[str, pa.Array]]:
    """A feature with a column of 0 to 6 rows, or the columns that it reads."""
    count = 5
    kind = draw(st.sampled_from(["id", "id_list", "sequence", "dense", "dense_sequence"]))
    nothing = draw(st.booleans())
    if kind.startswith("dense"):
        declared: Any = {"transforms": draw(_steps()), "missing": draw(st.sampled_from(["error", 0.1]))}
        one, arrow = draw(st.sampled_from([(numbers, _FLOATS), (st.integers(-5, 5), [pa.int16()])])), None
        values, types = one
        arrow = draw(st.sampled_from(types))
    else:
        ids, values, types = draw(_ids())
        declared = {"ids": ids, "missing": draw(st.sampled_from(["error", "row"]))}
        arrow = draw(st.sampled_from(types))
    one = values | st.none() if nothing else values
    if kind in ("id", "dense"):
        column = pa.array(draw(st.lists(one, min_size=count, max_size=count)), arrow)
        made = IdFeature(name=name, **declared) if kind == "id" else DenseFeature(name=name, **declared)
        return made, {name: column}
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if pa.types.is_string_view(arrow):  # lists of which Arrow cannot take some elements
        arrow = pa.string()
    lists = draw(st.lists(st.none() | st.lists(one, max_size=4), min_size=count, max_size=count))
    of = draw(st.sampled_from([pa.list_, pa.large_list, pa.list_view]))
    columns = {name: pa.array(lists, of(arrow))}
    if kind == "id_list":
        if draw(st.booleans()):
            declared["weights"] = f"{name}_w"
            columns[f"{name}_w"] = pa.array([None if v is None else [draw(numbers) for _ in v] for v in lists])
            columns[f"{name}_w"] = columns[f"{name}_w"].cast(pa.list_(pa.float64()))
        most = draw(st.sampled_from([None, 1, 3]))
        return IdListFeature(name=name, max_length=most, **declared), columns
    if kind == "sequence":
        return SequenceFeature(name=name, max_length=draw(st.sampled_from([1, 3])), **declared), columns
    return DenseSequenceFeature(name=name, max_length=2, aligned="h", **declared), columns


def check(folder: Path, schema: Schema, table: pa.Table) -> None:
    """Reads a table by the pipeline and by the loader: as Arrow, and as Python values, twice."""
    batch = table.combine_chunks().to_batches()[0]
    readers = {f.name: FeatureReader(f, folder) for f in schema.features}
    try:
        for reader in readers.values():
            reader.check(table.schema, "f")
    except UserError:  # nothing was trained on such columns
        return
    bundle = bundle_of(folder / str(next(_count)), schema, table.schema, folder)
    try:
        expected = {name: reader(batch, "f") for name, reader in readers.items()}
        check_aligned(schema.features, batch, "f")
    except UserError as error:
        for rows in (table, table.to_pylist()):
            with pytest.raises(RowError) as caught:
                bundle.read(rows)
            assert "\n" not in str(caught.value)
            if "row " in str(error) and len(schema.features) == 1 and schema.features[0].name == "f":
                assert caught.value.feature == "f" and caught.value.row is not None
                with pytest.raises(UserError):  # of several wrong rows each may name another
                    readers["f"](batch.slice(caught.value.row, 1), "f")
        return
    for rows in (table, table.to_pylist(), table.to_pylist(), table.to_pydict(), table.slice(2).to_batches()[0]):
        some = slice(2, None) if isinstance(rows, pa.RecordBatch) else slice(None)
        for name, found in bundle.read(rows).items():
            wanted = expected[name]
            if some.start and wanted.lengths is not None:
                wanted = readers[name](batch.slice(2), "f")
                some = slice(None)
            np.testing.assert_array_equal(found.values, wanted.values[some])
            assert found.values.dtype in (np.int64, np.float32)  # rows of a table, or numbers
            assert (found.lengths is None) == (wanted.lengths is None)
            if wanted.lengths is not None:
                np.testing.assert_array_equal(found.lengths, wanted.lengths)
            if wanted.weights is not None:
                np.testing.assert_array_equal(found.weights, wanted.weights)
            some = slice(2, None) if isinstance(rows, pa.RecordBatch) else slice(None)


@settings(max_examples=120)
@given(made=features("f"))
def test_a_feature_is_read_as_the_pipeline_reads_it(folder: Path, made: tuple[Any, dict[str, pa.Array]]) -> None:
    feature, columns = made
    others: tuple[Any, ...] = ()
    if isinstance(feature, DenseSequenceFeature):
        others = (SequenceFeature(name="beside", ids=Identity(num_ids=9), aligned="h", max_length=2),)
        lengths = [0 if v is None else len(v) for v in columns["f"].to_pylist()]
        columns = columns | {"beside": pa.array([[1] * n for n in lengths], pa.list_(pa.int64()))}
    check(folder, Schema(features=(feature, *others), labels=()), pa.table(columns))


@st.composite
def crosses(draw: Any) -> tuple[Any, dict[str, pa.Array]]:
    """A cross of two or three features, or of columns."""
    parts, columns = [], {}
    for name in "abc"[: draw(st.integers(2, 3))]:
        feature, of_it = draw(features(name).filter(lambda made: made[0].kind in ("id", "id_list")))
        parts.append(feature)
        columns |= of_it
    many = any(isinstance(part, IdListFeature) for part in parts)
    most = draw(st.sampled_from([None, 2, 5]))
    if draw(st.booleans()):
        ids: Any = FeatureCross(features=tuple(parts), num_ids=97)
        missing = "error"
    else:
        ids = Cross(columns=tuple(part.name for part in parts), num_ids=97, seed=draw(st.sampled_from([0, 5])))
        missing = draw(st.sampled_from(["error", "row"]))
        assume(not any(pa.types.is_string_view(column.type) for column in columns.values()))  # which Arrow cannot take
    if many:
        return IdListFeature(name="x", ids=ids, missing=missing, max_length=most), columns
    return IdFeature(name="x", ids=ids, missing=missing), columns


@settings(max_examples=60)
@given(made=crosses())
def test_a_cross_is_made_as_the_pipeline_makes_it(folder: Path, made: tuple[Any, dict[str, pa.Array]]) -> None:
    feature, columns = made
    check(folder, Schema(features=(feature,), labels=()), pa.table(columns))


def test_many_strings_hash_as_the_pipeline_hashes_them(folder: Path) -> None:
    """So many that they are hashed as arrays, and more than are looked for one by one."""
    draw = np.random.default_rng(0)
    words = ["".join(map(chr, draw.integers(32, 900, length))) for length in draw.integers(0, 45, 5000)]
    feature = IdFeature(name="f", ids=Hash(num_ids=2**50, seed=3))
    listed = SequenceFeature(name="g", ids=Vocabulary(path="words.parquet", size=6), max_length=3)
    lists = pa.array([[word, "a"] for word in words])
    check(folder, Schema(features=(feature, listed), labels=()), pa.table({"f": words, "g": lists}))


# ---------------------------------------------------------------- rows as services have them


@pytest.fixture(scope="module")
def plain(folder: Path) -> Bundle:
    """A bundle that reads a row of a table, a hashed value, a list of strings and a number."""
    made = (
        IdFeature(name="row", ids=Identity(num_ids=10), missing="row"),
        IdFeature(name="key", ids=Hash(num_ids=2**40), missing="row"),
        IdListFeature(name="words", ids=Hash(num_ids=2**40), max_length=2),
        DenseFeature(name="x", transforms=(Log(),), missing=0.0),
    )
    types = {"row": pa.int64(), "key": pa.null(), "words": pa.list_(pa.string()), "x": pa.float64()}
    return bundle_of(folder / str(next(_count)), Schema(features=made, labels=()), pa.schema(types), folder)


def hashed(values: Any) -> list[int]:
    return (hash_array(pa.array(values)) % np.uint64(2**40)).astype(np.int64).tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"row": 7.5}, "row 1: feature 'row': found 7.5, expected an integer"),
        ({"row": 2.0**70}, "row 1: feature 'row': found 1.18.*, expected an integer"),
        ({"row": 2**64}, "row 1: feature 'row': found 18446744073709551616, expected int64"),
        ({"row": Decimal(7)}, r"row 1: feature 'row': found Decimal\('7'\), expected int64"),
        ({"key": [7]}, r"row 1: feature 'key': found \[7\], expected string or int64"),
        ({"words": "ab"}, "row 1: feature 'words': found 'ab', expected list<string>"),
        ({"words": ["a", 5]}, "row 1: feature 'words': found 5, expected string"),
        ({"words": ["\ud800"]}, "row 1: feature 'words': found .*, expected string"),
        ({"x": 10**400}, "row 1: feature 'x': found 10+.*, expected double"),
        ({"x": datetime(2026, 1, 1)}, "row 1: feature 'x': found datetime.*, expected double"),
    ],
)
def test_a_value_of_another_type_is_named(plain: Bundle, row: dict[str, Any], message: str) -> None:
    rows = [{"row": 7, "key": 7, "words": ["a"], "x": 1.0}, row, {"row": 8}]
    with pytest.raises(RowError, match=f"^{message}"):
        plain.read(rows)


def test_values_of_several_types_are_read_each_on_its_own(plain: Bundle) -> None:
    keys = [7, "7", None, 2**63 + 5, 7.0, np.int64(7), b"\xff"]
    expected = [*hashed([7]), *hashed(["7"]), 2**40, *hashed(pa.array([2**63 + 5], pa.uint64())), *hashed([7, 7])]
    for _ in range(2):
        found = plain.read([{"key": key} for key in keys])["key"].values.tolist()
        assert found == [*expected, *hashed([b"\xff"])]
    numbers = [2**53 + 1, 0.5, None, True, Decimal("1.5"), np.float32(2)]
    read = plain.read([{"x": x} for x in numbers])["x"].values
    np.testing.assert_array_equal(read, np.log1p(np.array([2.0**53, 0.5, 0, 1, 1.5, 2])).astype(np.float32))
    words = plain.read([{"words": w} for w in (["a"], ("b", "c"), np.array(["d"]), float("nan"), None)])["words"]
    assert words.lengths is not None and words.lengths.tolist() == [1, 2, 1, 0, 0]
    assert words.values.tolist() == hashed(["a", "b", "c", "d"])


def test_rows_of_pandas_and_numpy(plain: Bundle) -> None:
    rows = [{"row": 7, "key": "a", "words": ["a", "b"], "x": 1.5}, {"row": None, "key": None, "words": None, "x": None}]
    expected = plain.read(rows)
    frame = pd.DataFrame(rows)
    assert frame["row"].dtype == np.float64  # NaN for nothing
    forms: list[Any] = [
        frame,
        frame.astype({"key": "category", "row": "Int64"}),
        {name: frame[name] for name in frame},
        {name: frame[name].to_numpy() for name in frame},
        {name: tuple(frame[name]) for name in frame},
        pa.concat_tables([pa.Table.from_pylist(rows[:1]), pa.Table.from_pylist(rows[1:])], promote_options="default"),
    ]
    for form in forms:
        for name, column in plain.read(form).items():
            for found, wanted in zip(column, expected[name], strict=True):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"row": 7}, "column 'row': found a int, expected a list of values"),
        ({"row": "ab"}, "column 'row': found a str, expected a list of values"),
        (pd.DataFrame([[1, 2]], columns=["row", "row"]), "column 'row': found a DataFrame, expected a list of values"),
        (pa.table([[1], [2]], names=["row", "row"]), "the column 'row' is there 2 times"),
        (pd.DataFrame({"row": [1, "a"]}), "row 1: feature 'row': found 'a', expected int64"),
        ([{"row": 1}, 5], "rows are a pyarrow.Table"),
    ],
)
def test_what_is_no_rows_is_refused(plain: Bundle, rows: Any, message: str) -> None:
    with pytest.raises(RowError, match=f"^{message}"):
        plain.read(rows)
