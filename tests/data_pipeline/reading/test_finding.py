"""Which files paths stand for: what other programs leave beside them, and what looks like data but is not."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.finding import find_files
from shardrec.data_pipeline.reading.index import DataSet


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": [1]}), path)
    return path


def found(paths: str | Path, root: Path, **options: bool) -> list[str]:
    return [Path(f.path).relative_to(root).as_posix() for f in find_files(paths, **options)]


@pytest.mark.parametrize("named", ["", "/*", "/**", "/**/*", "/part-*"])
def test_what_spark_and_hadoop_leave_is_passed_over(tmp_path, named):
    write(tmp_path / "part-0.parquet")
    (tmp_path / "part-1.parquet").touch()  # a part without rows
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", "part-0.parquet.crc"):
        (tmp_path / name).write_bytes(b"x")
    assert found(f"{tmp_path}{named}", tmp_path) == ["part-0.parquet"]


def test_files_that_are_all_empty(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="all 2 Parquet files are empty"):
        find_files(tmp_path)
    with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file \(0 bytes"):
        DataSet.open(tmp_path / "a.parquet")


def test_numbers_in_names_count_as_numbers(tmp_path):
    for day in range(1, 12):
        write(tmp_path / f"day={day}" / "part-0.parquet")
    days = [f"day={day}/part-0.parquet" for day in range(1, 12)]
    assert found(tmp_path, tmp_path) == found(f"{tmp_path}/*", tmp_path) == found(f"{tmp_path}/**", tmp_path) == days
    assert found(tmp_path, tmp_path, by_number=False) == sorted(days)  # as earlier versions read them


def test_names_with_the_characters_of_globs_mean_themselves(tmp_path):
    write(tmp_path / "data[1]" / "a*.parquet")
    write(tmp_path / "data1" / "ab.parquet")
    assert found(tmp_path / "data[1]", tmp_path) == ["data[1]/a*.parquet"]
    assert found(tmp_path / "data[1]" / "a*.parquet", tmp_path) == ["data[1]/a*.parquet"]
    assert found(tmp_path / "data[1]" / "*.parquet", tmp_path) == ["data[1]/a*.parquet"]
    assert found(tmp_path / "data[12]" / "*.parquet", tmp_path) == ["data1/ab.parquet"]


def test_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path / "data" / "deep" / "a.parquet")
    write(tmp_path / "beside" / "b.parquet")
    (tmp_path / "data" / "deep" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "beside").symlink_to(tmp_path / "beside")
    (tmp_path / "beside" / "back").symlink_to(tmp_path / "data" / "deep")
    expected = ["data/beside/b.parquet", "data/beside/back/a.parquet", "data/deep/a.parquet"]
    assert found(tmp_path / "data", tmp_path) == found(f"{tmp_path}/data/**", tmp_path) == expected


def test_a_link_to_nothing_is_an_error(tmp_path):
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: is a link to a file that is not there"):
        find_files(tmp_path)


@pytest.mark.parametrize("name", ["~nobody-is-called-so.parquet", "a b.parquet", "ü\n.parquet"])
def test_strange_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such Parquet file"):
        find_files(name)
    write(tmp_path / name)
    assert found(name, tmp_path) == [name]


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/00000000000000000001.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/00000-1234.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize(
    "named", ["", "/table", "/table/data", "/table/data/day=1", "/table/data/day=1/*", "/table/*/*", "/**"]
)
def test_tables_of_other_systems_are_refused(tmp_path, log, kind, named):
    write(tmp_path / "table" / "data" / "day=1" / "a.parquet")
    root = tmp_path / "table" if kind == "Iceberg" else tmp_path / "table" / "data"
    (root / log).parent.mkdir()
    (root / log).write_text("{}")
    with pytest.raises(UserError, match=rf"{root}: is a table of {kind}.* write the table's present rows") as caught:
        find_files(f"{tmp_path}{named}")
    assert "\n" not in str(caught.value)


def test_a_folder_called_metadata_is_no_table(tmp_path):
    write(tmp_path / "data" / "a.parquet")
    write(tmp_path / "metadata" / "b.parquet")
    assert found(tmp_path / "data", tmp_path) == ["data/a.parquet"]


def test_folders_that_may_not_be_read(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may read all folders")
    write(tmp_path / "data" / "closed" / "a.parquet")
    (tmp_path / "data" / "closed").chmod(0)
    try:
        with pytest.raises(UserError, match="cannot be read as a data path"):
            find_files(tmp_path / "data")
    finally:
        (tmp_path / "data" / "closed").chmod(0o700)
