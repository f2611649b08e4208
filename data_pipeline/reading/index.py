"""An index says what Parquet files hold without reading their rows: one numbered list of rows, in row groups.

Footers are read once, by one process; the index is small and picklable, so other ranks get it instead of reading.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.column_chunks import ColumnChunks
from shardrec.data_pipeline.reading.files import File, Opened, Sightings, Stamp, changed, readable
from shardrec.data_pipeline.reading.finding import find_files

FOOTER_THREADS = 16
"""Footers read at once: they wait for the file system, not for a core."""

PAGE_BYTES, DICTIONARY_BYTES = 1 << 18, 1 << 20
"""What a column's decoder holds, at most: a page, and its dictionary, twice (Arrow's writers end one at 1 MiB)."""

FOOTER_BYTES = 900
"""An open file's footer takes about so many bytes for each column of each row group (measured; 8 times its size)."""

PACKED = 100
"""Lists whose values take this many times the bytes of their pages repeat one value, and may be one row's."""


class LongRow(NamedTuple):
    """A long row is what a footer allows for: a row with so many values in a column of lists, in a file's row group.

    It is the mean of the row group; where values are packed so that all could be one row's, it is all of them.
    """

    values: float
    file: str
    group: int


class Sample(NamedTuple):
    """A sample is a row group's rows and, by column, its values (elements, for lists) and bytes of decoding."""

    rows: int
    values: dict[str, int]
    decoder_bytes: dict[str, int]

    @classmethod
    def of(cls, rows: int, chunks: Iterable[pq.ColumnChunkMetaData], remote: bool) -> "Sample":
        """Adds up the sizes that a footer has for a row group.

        Dictionaries are taken to compress to a quarter; remote bytes are held as fetched.
        """
        sample = cls(rows, {}, {})
        for chunk in chunks:
            column = chunk.path_in_schema.split(".")[0]
            size = min(chunk.total_uncompressed_size, PAGE_BYTES) + (chunk.total_compressed_size if remote else 0)
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                dictionary = 4 * (chunk.data_page_offset - chunk.dictionary_page_offset)
                size += 2 * min(dictionary, DICTIONARY_BYTES, chunk.total_uncompressed_size)
            sample.values[column] = max(sample.values.get(column, 0), chunk.num_values)
            sample.decoder_bytes[column] = sample.decoder_bytes.get(column, 0) + size
        return sample


@dataclass(frozen=True)
class Fingerprint:
    """A fingerprint tells files from others: by their order, names and sizes, and by the bytes of their footers.

    A copy in another folder or on another machine has the same one.

    value: what checkpoints hold
    earlier: what those hold that were made before footers counted: names, sizes and rows of row groups
    """

    value: str
    earlier: str

    def matches(self, saved: object) -> bool:
        """Tells whether a checkpoint holds this fingerprint."""
        return saved in (self.value, self.earlier)


@dataclass(frozen=True, eq=False)
class Index:
    """An index is all that is known of a data set without reading its rows.

    files: in order
    file_groups: [files + 1] int64, file f has row groups file_groups[f] .. file_groups[f + 1]
    group_rows: [groups] int64, rows of each row group
    schemas: the Arrow schemas that the files with rows have, each with the path of the first one
    sample: sizes in the largest row group
    digests: of the files' footers
    long_rows: by column of lists, the longest row that the footers allow for
    sightings: how this process saw the files
    """

    files: tuple[File, ...]
    file_groups: np.ndarray
    group_rows: np.ndarray
    schemas: tuple[tuple[pa.Schema, str], ...]
    sample: Sample
    digests: tuple[bytes, ...] = ()
    long_rows: dict[str, LongRow] = field(default_factory=dict)
    sightings: Sightings = field(default_factory=Sightings)

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
    def fingerprint(self) -> Fingerprint:
        """Returns what tells these files, in this order, from others."""
        now, earlier = hashlib.blake2b(b"footers", digest_size=16), hashlib.blake2b(digest_size=16)
        for file, digest in zip(self.files, self.digests, strict=True):
            name = f"{posixpath.basename(file.path)}\0{file.size}\0".encode(errors="surrogateescape")
            now.update(name + digest)
            earlier.update(name)
        for numbers in (self.file_groups, self.group_rows):
            earlier.update(numbers.astype("<i8").tobytes())
        return Fingerprint(now.hexdigest(), earlier.hexdigest())

    def is_of_the_files_of(self, other: "Index") -> bool:
        """Tells whether another index is of the same files, in whichever order."""
        mine, others = (sorted(zip((f.path for f in i.files), i.digests, strict=True)) for i in (self, other))
        return mine == others

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

    # ------------------------------------------------------------ files that stay what they were

    def open(self, number: int, *, piecewise: bool) -> pq.ParquetFile:
        """Opens a file again. Raises UserError as `File.open` does, and where it is no longer what was indexed."""
        file = self.files[number]
        opened = file.open(piecewise=piecewise)
        self.sightings.add(file, opened.stamp)
        if difference := self._difference(number, opened):
            raise changed(file, difference)
        return opened.parquet

    def check_files(self) -> None:
        """Raises UserError where this process finds other local files under these paths than the one that indexed them.

        Objects are the same for everyone.
        """
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            list(pool.map(self._check_local, range(len(self.files))))

    def _check_local(self, number: int) -> None:
        file = self.files[number]
        if file.remote:
            return
        opened = file.open(piecewise=False)
        if difference := self._difference(number, opened):
            raise UserError(f"{file.path}: another file than on rank 0 ({difference}); give all workers the same ones")
        self.sightings.add(file, opened.stamp)

    def _difference(self, number: int, opened: Opened) -> str | None:
        """Returns in words how a file differs from the one that was indexed, wherever that was; None: in nothing."""
        size = self.files[number].size
        if opened.stamp.size != size:
            return f"{size} bytes there, {opened.stamp.size} here"
        return None if opened.digest == self.digests[number] else "its footer is another"


class DataSet:
    """A data set is the rows of some Parquet files, in order."""

    def __init__(self, index: Index) -> None:
        self.index = index

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path], *, by_number: bool = True) -> "DataSet":
        """Finds the files (`find_files`, which says what `by_number` is) and reads their footers.

        Raises UserError for nothing found, no rows, and truncated or corrupt files.
        """
        files, sightings = find_files(paths, by_number=by_number), Sightings()
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(files))) as pool:
            footers = list(pool.map(_Content.read, files))
        for content in footers:
            sightings.add(content.file, content.stamp)
        group_rows = np.concatenate([f.group_rows for f in footers])
        if not group_rows.sum():
            beside = f" or the {len(files) - 1} files beside it" if len(files) > 1 else ""
            raise UserError(f"{files[0].path}: no rows in it{beside}; expected some")
        schemas: dict[pa.Schema, str] = {}
        for content in footers:
            if content.group_rows.any():
                schemas.setdefault(content.schema, content.file.path)
        return cls(
            Index(
                tuple(content.file for content in footers),
                np.cumsum([0, *(len(f.group_rows) for f in footers)]).astype(np.int64),
                group_rows,
                tuple(schemas.items()),
                max((f.sample for f in footers), key=lambda sample: sample.rows),
                tuple(f.digest for f in footers),
                _longest(f.long_rows for f in footers),
                sightings,
            )
        )

    @classmethod
    def from_index(cls, index: Index) -> "DataSet":
        """Returns the data set that another process opened; reads nothing."""
        return cls(index)


def fingerprints(paths: str | Path | Sequence[str | Path]) -> tuple[Fingerprint, ...]:
    """Returns the fingerprints of files in the orders in which they are read, or were earlier: see `find_files`."""
    return tuple(DataSet.open(paths, by_number=by_number).index.fingerprint for by_number in (True, False))


class _Content(NamedTuple):
    """The content of a file is what an index keeps of its footer."""

    file: File
    stamp: Stamp
    digest: bytes
    group_rows: np.ndarray
    schema: pa.Schema
    sample: Sample
    long_rows: dict[str, LongRow]

    @classmethod
    def read(cls, file: File) -> "_Content":
        """Reads a file's footer. Raises UserError for a file that is not there, truncated, or not Parquet."""
        opened = file.open(piecewise=False)
        with opened.parquet as parquet, readable(file.path):
            metadata = parquet.metadata
            groups = range(metadata.num_row_groups)
            group_rows = np.fromiter((metadata.row_group(g).num_rows for g in groups), np.int64, len(groups))
            chunks = ColumnChunks(metadata)
            largest = chunks.of(int(group_rows.argmax())) if group_rows.any() else ()
            return cls(
                file._replace(size=opened.stamp.size),
                opened.stamp,
                opened.digest,
                group_rows,
                parquet.schema_arrow.remove_metadata(),
                Sample.of(int(group_rows.max(initial=0)), largest, file.remote),
                _long_rows(file.path, metadata, chunks),
            )


def _long_rows(path: str, metadata: pq.FileMetaData, chunks: ColumnChunks) -> dict[str, LongRow]:
    """Returns, by column of lists, the longest row that a file's footer allows for."""
    longest: dict[str, LongRow] = {}
    lists = [c for c in range(metadata.num_columns) if metadata.schema.column(c).max_repetition_level]
    for number in range(metadata.num_row_groups if lists else 0):
        rows, found = metadata.row_group(number).num_rows, chunks.of(number)
        for chunk in (found[c] for c in lists):
            packed = 8 * chunk.num_values > PACKED * chunk.total_uncompressed_size
            values = chunk.num_values if packed else chunk.num_values / max(rows, 1)
            column = chunk.path_in_schema.split(".")[0]
            if column not in longest or values > longest[column].values:
                longest[column] = LongRow(values, path, number)
    return longest


def _longest(by_file: Iterable[dict[str, LongRow]]) -> dict[str, LongRow]:
    """Returns the longest row by column over all files."""
    longest: dict[str, LongRow] = {}
    for rows in by_file:
        for column, row in rows.items():
            longest[column] = max(longest.get(column, row), row)
    return longest
