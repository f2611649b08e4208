"""Files may differ in what is not read, and in types that are read alike; what is read differently is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Hash, Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet

SCHEMA = Schema(
    features=(
        IdFeature(name="id", ids=Identity(num_ids=100), missing="row"),
        IdFeature(name="word", ids=Hash(num_ids=1 << 30), missing="row"),
        IdListFeature(name="words", ids=Hash(num_ids=1 << 30)),
        SequenceFeature(name="path", ids=Identity(num_ids=100), max_length=9),
        DenseFeature(name="number", missing=-1.0),
    ),
)
IDS, WORDS, LISTS, PATHS = [3, 1, 4], ["a", "bb", "a"], [["a"], [], ["bb", "a"]], [[1, 2], [3, 4], [5, 6]]


def rows(**other: pa.Array) -> pa.Table:
    columns = {
        "id": pa.array(IDS, pa.int64()),
        "word": pa.array(WORDS),
        "words": pa.array(LISTS),
        "path": pa.array(PATHS),
        "number": pa.array([1.0, 2.0, 3.0]),
        "label": pa.array([0, 1, 0], pa.int8()),
        "key": pa.array(["x", "y", "z"]),
    }
    return pa.table({name: column for name, column in (columns | other).items() if column is not None})


def batches(folder, schema=SCHEMA, keys=()):
    loader = Loader(DataSet.open(folder), schema, folder=".", global_batch_size=6, order="file", extra_columns=keys)
    return list(loader.epoch_with_columns(0))


ALIKE = {
    "an extra column": {"debug": pa.array([1, 1, 1])},
    "an index of pandas": {"__index_level_0__": pa.array([7, 8, 9])},
    "a column of nulls that is not read": {"nothing": pa.nulls(3)},
    "narrow ids": {"id": pa.array(IDS, pa.int8())},
    "unsigned ids": {"id": pa.array(IDS, pa.uint64())},
    "ids with a dictionary": {"id": pa.array(IDS).dictionary_encode()},
    "large strings": {
        "word": pa.array(WORDS, pa.large_string()),
        "words": pa.array(LISTS, pa.list_(pa.large_string())),
    },
    "views of strings": {
        "word": pa.array(WORDS, pa.string_view()),
        "words": pa.array(LISTS, pa.list_(pa.string_view())),
    },
    "binary": {"word": pa.array(WORDS, pa.string()).cast(pa.binary())},
    "categories": {
        "word": pa.array(WORDS).dictionary_encode(),
        "words": pa.array(LISTS, pa.list_(pa.string())).cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    },
    "large lists": {
        "words": pa.array(LISTS, pa.large_list(pa.string())),
        "path": pa.array(PATHS, pa.large_list(pa.int32())),
    },
    "views of lists": {"words": pa.array(LISTS, pa.list_view(pa.string()))},
    "lists of one size": {"path": pa.array(PATHS, pa.list_(pa.int16(), 2))},
    "numbers of other kinds": {"number": pa.array([1, 2, 3], pa.int8()), "label": pa.array([False, True, False])},
}


@pytest.mark.parametrize("change", ALIKE)
@pytest.mark.parametrize("last", [False, True])
def test_types_that_are_read_alike(tmp_path, change, last):
    tables = [rows(), rows(**ALIKE[change])]
    for i, table in enumerate(tables if last else tables[::-1]):
        pq.write_table(table, tmp_path / f"{i}.parquet")
    ((batch, keys),) = batches(tmp_path, keys=("key", "id"))
    ids = batch.ids.to_dict()
    for name in ("id", "word", "words", "path"):
        first, second = (ids[name].to_dense()[at : at + 3] for at in (0, 3))
        assert [x.tolist() for x in first] == [x.tolist() for x in second]
    assert batch.dense[:3].tolist() == batch.dense[3:].tolist() == [[1], [2], [3]]
    assert batch.labels["label"].tolist() == [0, 1, 0] * 2
    assert keys.column("key").to_pylist() == ["x", "y", "z"] * 2
    assert keys.column("id").to_pylist() == IDS * 2


def test_columns_in_which_nothing_is_known(tmp_path):
    nothing = {name: pa.nulls(3) for name in ("id", "word", "number", "words")}
    pq.write_table(rows(**nothing, path=pa.array([[], [], []])), tmp_path / "0.parquet")  # a list of null, for Arrow
    ((alone, _),) = batches(tmp_path)
    pq.write_table(rows(), tmp_path / "1.parquet")
    ((batch, _),) = batches(tmp_path)
    missing = {name: SCHEMA[name].ids.num_rows for name in ("id", "word")}
    for seen in (alone, batch):
        ids = seen.ids.to_dict()
        for name, row in missing.items():
            assert [x.tolist() for x in ids[name].to_dense()[:3]] == [[row]] * 3
        assert seen.dense[:3].tolist() == [[-1]] * 3
        assert ids["path"].lengths()[:3].tolist() == ids["words"].lengths()[:3].tolist() == [0, 0, 0]


def test_a_pandas_frame_with_an_index(tmp_path):
    frame = rows().to_pandas()
    frame.to_parquet(tmp_path / "0.parquet")
    frame.iloc[[2, 0, 1]].to_parquet(tmp_path / "1.parquet")
    frame.assign(word=pd.Categorical(frame["word"]), number=np.nan).to_parquet(tmp_path / "2.parquet")
    assert sum(int(batch.live.sum()) for batch, _ in batches(tmp_path)) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word": pa.array([1, 2, 1])}, r"1\.parquet: column 'word' is int64, but string in .*0\.parquet, and ids of"),
        (
            {"words": pa.array([[1], [2], []])},
            r"1\.parquet: column 'words' is list<.*int64>, but list<.*string> in",
        ),
        ({"id": pa.array(["3", "1", "4"])}, r"1\.parquet: column 'id' is string, but feature 'id' expects integers"),
        ({"path": pa.array([1, 2, 3])}, r"1\.parquet: column 'path' is int64, but .* expects a list"),
        ({"number": None}, r"1\.parquet: unknown column 'number'"),
        ({"label": pa.nulls(3)}, r"1\.parquet: column 'label' is null, but label 'label' expects numbers"),
        (
            {"key": pa.array([1, 2, 3])},
            r"1\.parquet: column 'key' is int64, but string in .*, and the command",
        ),
        ({"key": None}, r"1\.parquet: unknown column 'key'"),
    ],
)
def test_what_is_read_otherwise_is_refused(tmp_path, change, message):
    pq.write_table(rows(), tmp_path / "0.parquet")
    pq.write_table(rows(**change), tmp_path / "1.parquet")
    with pytest.raises(UserError, match=message) as caught:
        batches(tmp_path, keys=("key",))
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_may_have_any_columns(tmp_path):
    pq.write_table(rows().slice(0, 0).select(["label"]), tmp_path / "0.parquet")
    pq.write_table(rows(), tmp_path / "1.parquet")
    assert len(batches(tmp_path, keys=("key",))) == 1


def test_columns_that_are_there_twice(tmp_path):
    twice = pa.Table.from_arrays([*rows().columns, pa.array([1, 2, 3])], names=[*rows().column_names, "key"])
    pq.write_table(twice, tmp_path / "0.parquet")
    assert len(batches(tmp_path)) == 1  # nothing reads it
    with pytest.raises(UserError, match=r"0\.parquet: column 'key' is there 2 times; .* needs exactly one"):
        batches(tmp_path, keys=("key",))


def test_a_partition_column_is_said_not_to_be_read(tmp_path):
    (tmp_path / "word=a").mkdir()
    pq.write_table(rows(word=None), tmp_path / "word=a" / "0.parquet")
    with pytest.raises(UserError, match="column 'word' is not in the file but in the names of its folders, which"):
        batches(tmp_path)


def test_lists_of_categories_over_several_row_groups(tmp_path):
    lists = pa.array([[f"w{i % 5}"] * (i % 3) for i in range(40)], pa.list_(pa.string()))
    schema = Schema(features=(IdListFeature(name="words", ids=Hash(num_ids=1 << 30)),), labels=())
    seen = []
    for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"words": lists.cast(pa.list_(kind))}), tmp_path / "0.parquet", row_group_size=7)
        seen.append([batch.ids.values().tolist() for batch, _ in batches(tmp_path, schema)])
    assert seen[0] == seen[1] and sum(map(len, seen[0])) == 39
