"""Footers that contradict themselves are told of in a line, and pages are not read for it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.column_chunks import ColumnChunks
from shardrec.data_pipeline.reading.index import DataSet

ROWS = pa.table({"a": [1, 2, 3], "many": [[1, 2], [], [3]], "text": ["x", None, "z"]})


def _footer_bytes(file: bytes) -> int:
    return int.from_bytes(file[-8:-4], "little")


def test_any_bit_of_a_footer_may_be_wrong(tmp_path: Path) -> None:
    """One of these bits is a size of a histogram, of which pyarrow's own `metadata.row_group(0).column(0)` dies."""
    path = tmp_path / "part.parquet"
    pq.write_table(ROWS, path)
    good = path.read_bytes()
    said = []
    for bit in range(8 * (len(good) - 8 - _footer_bytes(good)), 8 * (len(good) - 8)):
        broken = bytearray(good)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            DataSet.open(path)
        except UserError as error:
            said.append(str(error))
    assert any("histogram size mismatch" in line for line in said)
    assert not any("\n" in line for line in said)


@pytest.mark.parametrize("rows", [ROWS, ROWS.slice(0, 0), ROWS.select([])], ids=["some", "none", "no column"])
def test_no_page_is_read(tmp_path: Path, rows: pa.Table) -> None:
    """What is said of chunks is what pyarrow says, of a file that has lost its pages."""
    path = tmp_path / "part.parquet"
    pq.write_table(rows, path, row_group_size=2)
    metadata = pq.read_metadata(path)
    path.unlink()
    chunks = ColumnChunks(metadata)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        expected = [group.column(c).to_dict() for c in range(group.num_columns)]
        assert [chunk.to_dict() for chunk in chunks.of(number)] == expected
