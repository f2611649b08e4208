"""A footer's entries for column chunks are read only after Arrow has taken them for sound.

`RowGroupMetaData.column` is C++ without a way out: an entry that contradicts itself, as a damaged footer's may, ends
the process there (pyarrow 26). Arrow's reader comes upon the same entries, and its errors are Python's.
"""

import io
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

_PAGES = 1 << 62  # bytes: pages may lie anywhere


class ColumnChunks:
    """Column chunks are what a footer says of the columns of its row groups: their sizes, places and counts."""

    def __init__(self, metadata: pq.FileMetaData) -> None:
        self._metadata = metadata
        pages = pa.PythonFile(_Pages(), mode="r")
        self._reader = pq.ParquetFile(pages, metadata=metadata, buffer_size=1, pre_buffer=False)

    def of(self, group: int) -> list[pq.ColumnChunkMetaData]:
        """Returns those of a row group. Raises OSError where the footer contradicts itself; reads no page."""
        with suppress(_PageAskedForError):  # readers of all columns are made, then the first page is asked for
            next(self._reader.iter_batches(1, row_groups=[group], use_threads=False), None)
        found = self._metadata.row_group(group)
        return [found.column(c) for c in range(found.num_columns)]


class _PageAskedForError(Exception):
    """A page was asked for: all before it was sound."""


class _Pages(io.RawIOBase):
    """Pages that nobody may read."""

    _at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = _PAGES if whence == io.SEEK_END else offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        raise _PageAskedForError
