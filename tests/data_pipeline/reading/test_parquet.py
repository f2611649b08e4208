"""Finding files, reading footers, and any range of rows; damaged files are named."""

import dataclasses
import os
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.files import Sightings
from shardrec.data_pipeline.reading.index import DataSet, Index, Sample
from shardrec.data_pipeline.reading.parquet import RangeReader


def write(path: Path, groups: list[int], start: int = 0, columns: dict[str, pa.DataType] | None = None) -> int:
    """A file of row groups of the given sizes (0 is allowed) whose values count up from `start`; returns the next."""
    schema = pa.schema(columns or {"x": pa.int64(), "y": pa.float32()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for rows in groups:
            values = np.arange(start, start + rows)
            writer.write_table(pa.table([pa.array(values).cast(f.type) for f in schema], schema=schema), max(rows, 1))
            start += rows
    return start


def write_ten(path: Path, start: int) -> None:
    """A file of two row groups of 5 rows, equally large whatever the values are."""
    rows = pa.table({"x": np.arange(start, start + 10)})
    pq.write_table(rows, path, 5, compression="none", use_dictionary=False)


def reader(index: Index, on_decoded, chunk_rows: int = 7, whole_rows: int = 10**6) -> RangeReader:
    return RangeReader(
        index, ["x"], chunk_rows=chunk_rows, whole_rows=whole_rows, footer_memory=1 << 20, on_decoded=on_decoded
    )


def read(source: DataSet, start: int, stop: int, chunk_rows: int = 7) -> tuple[list[int], int]:
    """The values of column x in a range, and how many rows were decoded."""
    decoded: list[int] = []
    values: list[int] = []
    for chunk in reader(source.index, decoded.append, chunk_rows).read(start, stop):
        assert chunk.batch.schema.names == ["x"]
        assert chunk.place == start + len(values)
        in_file = [f.path for f in source.index.files].index(chunk.where)
        file_start = source.index.group_starts[source.index.file_groups[in_file]]
        assert chunk.first_row == chunk.place - file_start
        values += chunk.batch.column("x").to_pylist()
    return values, sum(decoded)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=4).filter(lambda f: any(map(sum, f))))
def test_any_range_of_rows(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("ranges")
    total = 0
    for i, groups in enumerate(files):
        total = write(folder / f"{i}.parquet", groups, total)
    source = DataSet.open(folder)
    assert source.index.num_rows == total
    for start in range(0, total, 3):
        for stop in range(start, total + 1, 5):
            values, _ = read(source, start, stop)
            assert values == list(range(start, stop))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=9).filter(sum), st.integers(1, 60), st.data())
def test_runs_cut_a_range_where_row_groups_end(groups, rows, data):
    index = Index((), np.array([0, len(groups)]), np.array(groups), (), Sample(0, {}, {}))
    start = data.draw(st.integers(0, index.num_rows - 1))
    stop = data.draw(st.integers(start + 1, index.num_rows))
    runs = list(index.runs(start, stop, rows))
    assert [a for a, _ in runs] == [start, *(b for _, b in runs[:-1])] and runs[-1][1] == stop
    ends = set(index.group_starts.tolist())
    assert all(b in ends for _, b in runs[:-1])
    for a, b in runs:
        assert b - a <= rows or index.group_of(a) == index.group_of(b - 1)
    for (a, _), (_, b) in pairwise(runs):
        assert b - a > rows  # no two could have been one


def test_only_row_groups_of_the_range_are_decoded(tmp_path):
    write(tmp_path / "a.parquet", [100, 100, 100])
    source = DataSet.open(tmp_path)
    assert read(source, 100, 200, chunk_rows=50) == (list(range(100, 200)), 100)
    assert read(source, 150, 200, chunk_rows=50)[1] == 100  # decoded from the group's start
    assert read(source, 100, 120, chunk_rows=50)[1] == 50  # and no further than needed
    assert read(source, 150, 150)[1] == 0


def test_paths_are_folders_globs_uris_and_lists(tmp_path):
    for name in ("b", "a", "deep/c", "_unfinished/d", ".hidden/e", "deep/_f"):
        write(tmp_path / f"{name}.parquet", [1])
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "schema.yaml").write_text("")

    def names(paths):
        return [Path(f.path).relative_to(tmp_path).as_posix() for f in DataSet.open(paths).index.files]

    assert names(tmp_path) == ["a.parquet", "b.parquet", "deep/c.parquet"]
    assert names(str(tmp_path)) == names(tmp_path) == names(tmp_path.as_uri()) == names(f"{tmp_path}/**")
    assert names(f"{tmp_path}/*.parquet") == names(f"{tmp_path.as_uri()}/*.parquet") == ["a.parquet", "b.parquet"]
    assert names(f"{tmp_path}/**/*.parquet") == ["a.parquet", "b.parquet", "deep/c.parquet"]
    assert names(f"{tmp_path}/d*") == ["deep/c.parquet"]
    assert names(f"{tmp_path}/[ab].parquet") == ["a.parquet", "b.parquet"]
    given = [f"{tmp_path}/deep", f"{tmp_path}/b.parquet", f"{tmp_path}/*.parquet"]
    assert names(given) == ["deep/c.parquet", "b.parquet", "a.parquet"]  # as given, each file once


def test_relative_paths(tmp_path, monkeypatch):
    write(tmp_path / "data" / "a.parquet", [3])
    monkeypatch.chdir(tmp_path)
    assert DataSet.open("data").index.num_rows == DataSet.open("data/*.parquet").index.num_rows == 3


def test_the_index_is_all_that_another_process_needs(tmp_path):
    write(tmp_path / "b.parquet", [2, 3], write(tmp_path / "a.parquet", [4]))
    index = pickle.loads(pickle.dumps(DataSet.open(tmp_path).index))
    assert read(DataSet.from_index(index), 0, 9)[0] == list(range(9))
    assert index.values_per_row == {"x": 1, "y": 1}
    assert (index.group_of(4), index.file_of(index.group_of(4)), index.group_bounds(2)) == (1, 1, (6, 9))


def test_the_fingerprint_is_that_of_the_data_not_of_its_folder(tmp_path):
    write(tmp_path / "one" / "a.parquet", [4, 4])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    prints = [DataSet.open(tmp_path / f).index.fingerprint for f in ("one", "two")]
    write(tmp_path / "two" / "a.parquet", [4, 3])
    write(tmp_path / "three" / "b.parquet", [4, 4])
    prints += [DataSet.open(tmp_path / f).index.fingerprint for f in ("two", "three")]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_equal_sizes_and_rows_are_not_equal_files(tmp_path):
    prints = []
    for start in (0, 10):
        write_ten(tmp_path / "a.parquet", start)
        prints.append(DataSet.open(tmp_path).index.fingerprint)
    assert prints[0].earlier == prints[1].earlier  # what checkpoints held before footers counted
    assert prints[0].value != prints[1].value
    assert prints[0].matches(prints[0].earlier) and not prints[0].matches(prints[1].value)
    assert not prints[0].matches(None)


def test_lists_are_counted_by_their_values(tmp_path):
    pq.write_table(pa.table({"l": [[1, 2, 3], [4, 5, 6]], "x": [0, 1]}), tmp_path / "a.parquet")
    assert DataSet.open(tmp_path).index.values_per_row == {"l": 3, "x": 1}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", r"nothing: no such Parquet file"),
        ("nothing/*.parquet", r"no such Parquet file"),
        ("empty", r"no such Parquet file"),
        ("x://nowhere", r"x://nowhere: cannot be read as a data path"),
        ("text.parquet", r"text.parquet: not a readable Parquet file .* truncated or corrupt"),
        ("no_rows", r"no_rows/a.parquet: no rows in it or the 1 files beside it"),
        ([], r"no data files are named"),
    ],
)
def test_what_cannot_be_data(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("not parquet")
    write(tmp_path / "no_rows" / "a.parquet", [])
    write(tmp_path / "no_rows" / "b.parquet", [0])
    with pytest.raises(UserError, match=message) as caught:
        DataSet.open(path if not path or "://" in path else tmp_path / path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(tmp_path):
    write(tmp_path / "a.parquet", [100])
    write(tmp_path / "b.parquet", [100])
    os.truncate(tmp_path / "b.parquet", 300)
    with pytest.raises(UserError, match=r"b\.parquet: not a readable Parquet file.*truncated"):
        DataSet.open(tmp_path)


def test_a_large_row_group_that_is_cut_short_while_it_is_read(tmp_path):
    """It is read piece by piece, and not mapped into memory: the process lives, and says what happened."""
    path = tmp_path / "a.parquet"
    rows = pa.table({"x": np.random.default_rng(0).integers(0, 2**62, 200_000)})
    pq.write_table(rows, path, use_dictionary=False, data_page_size=1 << 14, write_batch_size=1 << 10)
    chunks = reader(DataSet.open(tmp_path).index, lambda rows: None, chunk_rows=1000, whole_rows=1000).read(0, 200_000)
    assert next(chunks).batch.column("x").to_pylist() == rows["x"].to_pylist()[:1000]
    os.truncate(path, 100_000)
    with pytest.raises(UserError, match=r"a\.parquet: changed after the start \(.* bytes then, 100000 now"):
        list(chunks)


def test_corrupt_pages_are_named(tmp_path):
    write(tmp_path / "a.parquet", [1000, 5000, 1000])
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[start : start + 2000] = b"\xff" * 2000
    (tmp_path / "a.parquet").write_bytes(data)
    source = DataSet.open(tmp_path)  # the footer is fine
    with pytest.raises(UserError, match=r"a\.parquet: row group 1 cannot be decoded .* corrupt"):
        read(source, 0, 7000, chunk_rows=1000)


def rewrite(path: Path) -> None:
    """In place: the inode stays."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def replace(path: Path) -> None:
    """By another file with the same content and times."""
    times = path.stat()
    shutil.copy(path, path.with_name("new"))
    path.with_name("new").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: write(path, [5, 4, 1]), r"bytes then"),
        (lambda path: write_ten(path, 10), r"modified"),
        (rewrite, r"modified .* then, .* now"),
        (replace, r"inode"),
        (Path.unlink, r"No such file"),
    ],
)
def test_a_file_that_changed_since_it_was_indexed_or_while_it_is_read(tmp_path, change, message):
    whole = rf"a\.parquet: (changed after the start \(.*{message}|no longer there|not a readable Parquet file).*"
    for begun in (False, True):
        write_ten(tmp_path / "a.parquet", 0)
        index = DataSet.open(tmp_path).index
        chunks = reader(index, lambda rows: None, chunk_rows=5).read(0, 10)
        if begun:
            next(chunks)
        change(tmp_path / "a.parquet")
        with pytest.raises(UserError, match=whole) as caught:
            next(chunks)
        assert "\n" not in str(caught.value)


def test_a_file_that_changed_between_two_readers(tmp_path):
    write(tmp_path / "a.parquet", [5, 5])
    index = pickle.loads(pickle.dumps(DataSet.open(tmp_path).index))  # as another rank gets it
    assert len(list(reader(index, lambda rows: None).read(0, 10))) == 2
    rewrite(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: changed after the start"):
        next(reader(index, lambda rows: None).read(0, 10))


def test_another_process_may_see_another_inode_but_not_another_file(tmp_path):
    write_ten(tmp_path / "a.parquet", 0)
    index = pickle.loads(pickle.dumps(DataSet.open(tmp_path).index))
    replace(tmp_path / "a.parquet")  # as on another machine
    index.check_files()
    index = pickle.loads(pickle.dumps(index))
    write_ten(tmp_path / "a.parquet", 10)
    with pytest.raises(UserError, match=r"a\.parquet: another file than on rank 0 \(its footer is another\)"):
        index.check_files()


def test_the_order_of_columns_may_differ(tmp_path):
    end = write(tmp_path / "a.parquet", [5])
    write(tmp_path / "b.parquet", [5], end, columns={"y": pa.float32(), "x": pa.int64()})
    assert read(DataSet.open(tmp_path), 0, 10)[0] == list(range(10))


@pytest.mark.parametrize("remote", [False, True])
def test_large_row_groups_are_read_piece_by_piece(tmp_path, remote):
    total = write(tmp_path / "b.parquet", [200_000], write(tmp_path / "a.parquet", [200_000]))
    index = DataSet.open(tmp_path).index
    if remote:  # anything but the plain local file system
        files = [f._replace(filesystem=pafs.SubTreeFileSystem("/", f.filesystem)) for f in index.files]
        index = dataclasses.replace(index, files=tuple(files), sightings=Sightings())
        assert index.files[0].remote
    held, seen = {}, {}
    for whole_rows in (1000, 10**6):
        before = pa.total_allocated_bytes()
        values, peak = [], 0
        for chunk in reader(index, lambda rows: None, 1000, whole_rows).read(0, total):
            values.append(chunk.batch.column("x").to_numpy().copy())
            peak = max(peak, pa.total_allocated_bytes() - before)
        held[whole_rows], seen[whole_rows] = peak, np.concatenate(values)
    for values in seen.values():
        assert (values == np.arange(total)).all()
    assert remote or held[1000] < 0.8 * held[10**6]


def test_only_so_many_footers_stay_open(tmp_path):
    start = 0
    for i in range(6):
        start = write(tmp_path / f"{i}.parquet", [1] * 50, start)
    index = DataSet.open(tmp_path).index
    one = index.footer_bytes(0)
    for memory, most in ((0, 1), (3 * one, 3), (100 * one, 6)):
        found = RangeReader(
            index, ["x"], chunk_rows=9, whole_rows=99, footer_memory=memory, on_decoded=lambda rows: None
        )
        assert sum(c.batch.num_rows for c in found.read(0, start)) == start
        assert len(found._open) == most
