"""Prepared folders are complete or absent; files and row groups have the sizes asked for."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import MARKER
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, RowsWriter, staged


@given(st.lists(st.integers(0, 25), max_size=12), st.integers(1, 10), st.integers(1, 40))
def test_row_groups_and_files_have_their_sizes(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], group_rows: int, file_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    total = sum(batches)
    with RowsWriter(folder / "train", 3, group_rows, file_rows) as writer:
        first = 0
        for n in batches:
            writer.write(pa.RecordBatch.from_pydict({"a": pa.array(range(first, first + n), pa.int64())}))
            first += n
    assert writer.rows == total
    files = sorted(folder.glob("train/*"))
    assert [f.name for f in files] == [f"part-00003-{i:05d}.parquet" for i in range(len(files))]
    read, sizes = [], []
    for file in files:
        meta = pq.ParquetFile(file).metadata
        groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        assert len(groups) <= max(1, file_rows // group_rows)
        assert meta.row_group(0).column(0).compression == "ZSTD"
        sizes += groups
        read += pq.read_table(file).column("a").to_pylist()
    assert read == list(range(total))
    assert sizes == [group_rows] * (total // group_rows) + ([total % group_rows] if total % group_rows else [])


def test_files_that_come_in_while_a_folder_is_replaced_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as folder:
        (folder / "x").write_text("1")
    with pytest.raises(UserError, match="did not write 'mine'"), staged(out, overwrite=True) as folder:
        (folder / "x").write_text("2")
        (out / "mine").write_text("1")
    assert (out / "x").read_text() == (out / "mine").read_text() == "1"


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out) as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
        assert folder.parent == out.parent
    assert (out / "x").read_text() == "1"
    assert [f.name for f in out.parent.iterdir()] == ["out"]


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with staged(out) as folder:  # an empty folder is as good as none
        (folder / SCHEMA_FILE).write_text("1")
    (out / "mine").write_text("1")
    for overwrite, message in (
        (False, "is not empty; name another folder or give --overwrite"),
        (True, "not replaced, since shardrec did not write 'mine' in it"),
    ):
        with pytest.raises(UserError, match=message), staged(out, overwrite):
            raise AssertionError("must not be entered")
    (out / "mine").unlink()
    with pytest.raises(KeyboardInterrupt), staged(out, overwrite=True):
        raise KeyboardInterrupt
    assert (out / SCHEMA_FILE).read_text() == "1"
    with staged(out, overwrite=True) as folder:
        (folder / "new").write_text("2")
    assert sorted(f.name for f in out.iterdir()) == [MARKER, "new"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="is a file"), staged(out / "new"):
        pass
