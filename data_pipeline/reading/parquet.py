"""Parquet files are read as one numbered list of rows: `Index` says what is there, `RangeReader` reads any range.

Footers are read once, by one process; the index is small and picklable, so other ranks get it instead of reading.
pyarrow decodes a row group only from its start: what a range skips is decoded too, and counted.
"""

import hashlib
import posixpath
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.files import File, find_files, short_message

FOOTER_THREADS = 16
"""Footers read at once: they wait for the file system, not for a core."""

PAGE_BYTES, DICTIONARY_BYTES = 1 << 18, 1 << 20
"""What a column's decoder holds, at most: a page, and its dictionary, twice (Arrow's writers end one at 1 MiB)."""

OPEN_FILES, REMOTE_OPEN_FILES = 32, 4
"""Files kept open for their next use: two for each of 16 lanes, but few where a file holds on to fetched row groups."""

FOOTER_BYTES = 900
"""An open file's footer takes about so many bytes for each column of each row group (measured; 8 times its size)."""


class _Footer(NamedTuple):
    """A footer is what an index keeps of a file's."""

    group_rows: np.ndarray
    schema: pa.Schema
    sample: "Sample"


class Sample(NamedTuple):
    """A sample is a row group's rows and, by column, its values (elements, for lists) and bytes of decoding."""

    rows: int
    values: dict[str, int]
    decoder_bytes: dict[str, int]

    @classmethod
    def of(cls, group: pq.RowGroupMetaData | None, remote: bool) -> "Sample":
        """Reads a row group's sizes from a footer.

        Dictionaries are taken to compress to a quarter; remote bytes are held as fetched.
        """
        sample = cls(group.num_rows if group else 0, {}, {})
        for chunk in (group.column(c) for c in range(group.num_columns)) if group else ():
            column = chunk.path_in_schema.split(".")[0]
            size = min(chunk.total_uncompressed_size, PAGE_BYTES) + (chunk.total_compressed_size if remote else 0)
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                dictionary = 4 * (chunk.data_page_offset - chunk.dictionary_page_offset)
                size += 2 * min(dictionary, DICTIONARY_BYTES, chunk.total_uncompressed_size)
            sample.values[column] = max(sample.values.get(column, 0), chunk.num_values)
            sample.decoder_bytes[column] = sample.decoder_bytes.get(column, 0) + size
        return sample


@dataclass(frozen=True, eq=False)
class Index:
    """An index is all that is known of a data set without reading its rows.

    files: in order
    file_groups: [files + 1] int64, file f has row groups file_groups[f] .. file_groups[f + 1]
    group_rows: [groups] int64, rows of each row group
    schema: the Arrow schema that all files have
    sample: sizes in the largest row group
    """

    files: tuple[File, ...]
    file_groups: np.ndarray
    group_rows: np.ndarray
    schema: pa.Schema
    sample: Sample

    @cached_property
    def group_starts(self) -> np.ndarray:
        """Returns [groups + 1] int64: the first row of each row group, and the number of all rows."""
        starts = np.zeros(len(self.group_rows) + 1, np.int64)
        np.cumsum(self.group_rows, out=starts[1:])
        return starts

    @property
    def num_rows(self) -> int:
        """Returns the number of rows of all files."""
        return int(self.group_starts[-1])

    @property
    def values_per_row(self) -> dict[str, float]:
        """Returns the mean number of values a row, by column (other than 1 for lists only)."""
        return {column: count / self.sample.rows for column, count in self.sample.values.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Returns a hash of the files' names, sizes and row groups: a copy elsewhere has the same one."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(f"{posixpath.basename(file.path)}\0{file.size}\0".encode())
        digest.update(self.file_groups.astype("<i8").tobytes())
        digest.update(self.group_rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def group_of(self, row: int) -> int:
        """Returns the row group that holds a row."""
        return int(np.searchsorted(self.group_starts, row, side="right")) - 1

    def group_bounds(self, group: int) -> tuple[int, int]:
        """Returns the first row of a row group, and the one after its last."""
        return int(self.group_starts[group]), int(self.group_starts[group + 1])

    def runs(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Yields rows start .. stop, cut where row groups end: runs of at most `rows` rows, or of one row group."""
        while start < stop:
            end = stop
            if stop - start > rows:
                end = self.group_bounds(self.group_of(start + rows))[0]
                end = min(end if end > start else self.group_bounds(self.group_of(start))[1], stop)
            yield start, end
            start = end

    def footer_bytes(self, file: int) -> int:
        """Returns the estimated memory of an open file's footer."""
        groups = int(self.file_groups[file + 1] - self.file_groups[file])
        return groups * len(self.sample.decoder_bytes) * FOOTER_BYTES

    def file_of(self, group: int) -> int:
        """Returns the file that holds a row group."""
        return int(np.searchsorted(self.file_groups, group, side="right")) - 1


class DataSet:
    """A data set is the rows of some Parquet files, in order."""

    def __init__(self, index: Index) -> None:
        self.index = index

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path]) -> "DataSet":
        """Finds the files (`find_files`) and reads their footers.

        Raises UserError for nothing found, no rows, truncated or corrupt files, and files that differ in schema.
        """
        files = find_files(paths)
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(files))) as pool:
            footers = list(pool.map(_read_footer, files))
        first = footers[0]
        for file, footer in zip(files, footers, strict=True):
            _check_equal(first.schema, footer.schema, files[0].path, file.path)
        group_rows = np.concatenate([f.group_rows for f in footers])
        if not group_rows.sum():
            raise UserError(f"{files[0].path}: no rows in it or the {len(files) - 1} files beside it; expected some")
        file_groups = np.cumsum([0, *(len(f.group_rows) for f in footers)]).astype(np.int64)
        sample = max((f.sample for f in footers), key=lambda sample: sample.rows)
        return cls(Index(files, file_groups, group_rows, first.schema, sample))

    @classmethod
    def from_index(cls, index: Index) -> "DataSet":
        """Returns the data set that another process opened; reads nothing."""
        return cls(index)


class Chunk(NamedTuple):
    """A chunk is consecutive rows of one file.

    where, first_row: the file's path and the row's number in it, for error lines; place: its number in the data set
    """

    batch: pa.RecordBatch
    where: str
    first_row: int
    place: int


class RangeReader:
    """A range reader reads ranges of rows of one data set, in one thread; it keeps open the files that it used last."""

    def __init__(
        self,
        index: Index,
        columns: Sequence[str],
        *,
        chunk_rows: int,
        whole_rows: int,
        footer_memory: int,
        on_decoded: Callable[[int], None],
    ) -> None:
        """Opens no file yet.

        chunk_rows: rows of a chunk, at most
        whole_rows: so many may be fetched at once, larger row groups may not
        footer_memory: bytes for the footers of files that stay open for their next use
        on_decoded: is told how many rows were decoded, the skipped ones too
        """
        self.index = index
        self._columns = list(columns)
        self._chunk_rows = chunk_rows
        self._whole_rows = whole_rows
        self._on_decoded = on_decoded
        self._footer_memory = footer_memory
        self._open: OrderedDict[tuple[int, bool], pq.ParquetFile] = OrderedDict()

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yields rows start .. stop of the data set, in chunks. Raises UserError (file) for what cannot be decoded."""
        index = self.index
        while start < stop:
            group = index.group_of(start)
            file = index.file_of(group)
            file_stop = min(stop, int(index.group_starts[index.file_groups[file + 1]]))
            yield from self._read_file(file, group, start, file_stop)
            start = file_stop

    def _read_file(self, number: int, group: int, start: int, stop: int) -> Iterator[Chunk]:
        index = self.index
        first_group = int(index.file_groups[number])
        file_start, at = int(index.group_starts[first_group]), int(index.group_starts[group])
        groups = range(group - first_group, index.group_of(stop - 1) - first_group + 1)
        path = index.files[number].path
        piecewise = int(index.group_starts[first_group + groups.stop]) - at > self._whole_rows
        try:
            batches = self._file(number, piecewise).iter_batches(
                self._chunk_rows, row_groups=list(groups), columns=self._columns, use_threads=False
            )
            for batch in batches:
                row_count = batch.num_rows
                self._on_decoded(row_count)
                begin, end = max(start - at, 0), min(stop - at, row_count)
                handed_over = [Chunk(batch.slice(begin, end - begin), path, at + begin - file_start, at + begin)]
                del batch
                if begin < end:
                    yield handed_over.pop()  # so that a lane that waits for its turn holds no chunk
                at += row_count
                if at >= stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: row groups {groups[0]} to {groups[-1]} cannot be decoded ({short_message(error)}); "
                "the file is corrupt: write it again, or leave it out"
            ) from error
        raise UserError(f"{path}: {at - file_start} rows found where its footer promised more; write the file again")

    def _file(self, number: int, piecewise: bool) -> pq.ParquetFile:
        index, file = self.index, self.index.files[number]
        opened = self._open.pop((number, piecewise), None)
        if opened is None:
            opened = file.open(piecewise=piecewise)
            first, last = index.file_groups[number : number + 2]
            expected = int(last - first), int(index.group_starts[last] - index.group_starts[first])
            actual = opened.metadata.num_row_groups, opened.metadata.num_rows
            if actual != expected:
                raise UserError(
                    f"{file.path}: {actual[0]} row groups of {actual[1]} rows found, expected {expected[0]} of "
                    f"{expected[1]}; the file was changed after the start: start again"
                )
        self._open[number, piecewise] = opened
        most = REMOTE_OPEN_FILES if file.remote else OPEN_FILES
        while len(self._open) > 1 and (len(self._open) > most or self._footers() > self._footer_memory):
            self._open.popitem(last=False)
        return opened

    def _footers(self) -> int:
        return sum(self.index.footer_bytes(number) for number, _ in self._open)


def _read_footer(file: File) -> _Footer:
    with file.open(piecewise=False) as opened:
        metadata = opened.metadata
        groups = range(metadata.num_row_groups)
        group_rows = np.fromiter((metadata.row_group(g).num_rows for g in groups), np.int64, len(groups))
        largest = metadata.row_group(int(group_rows.argmax())) if group_rows.any() else None
        return _Footer(group_rows, opened.schema_arrow.remove_metadata(), Sample.of(largest, file.remote))


def _check_equal(expected: pa.Schema, actual: pa.Schema, first: str, path: str) -> None:
    """Raises UserError where a file's columns differ from the first file's (their order may)."""
    if actual.equals(expected):
        return
    remedy = "all files of a data set need the same columns and types: write one of them again"
    for field in expected:
        if field.name not in actual.names:
            raise UserError(f"{path}: no column {field.name!r}, expected {field.type} as in {first}; {remedy}")
        kinds = [actual.field(i).type for i in actual.get_all_field_indices(field.name)]
        if field.type not in kinds:
            raise UserError(
                f"{path}: column {field.name!r} is {kinds[0]}, expected {field.type} as in {first}; {remedy}"
            )
    for name in actual.names:
        if name not in expected.names:
            raise UserError(f"{path}: column {name!r} is not in {first}; {remedy}")
