"""Parquet files as one numbered list of rows: what is there (`Index`), and record batches of any range of them.

Footers are read once, by one process; the index is small and picklable, so other ranks get it instead of reading.
Local paths, folders and globs work, and URIs of `pyarrow.fs` (s3://, gs://, hdfs://, file://) likewise. pyarrow decodes
a row group only from its start: what a range skips is decoded too, and counted.
"""

import hashlib
import posixpath
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data_pipeline.errors import UserError

FOOTER_THREADS = 16
"""Footers read at once: they wait for the file system, not for a core."""

READ_BYTES, REMOTE_READ_BYTES = 1 << 16, 1 << 20
"""Bytes read at once for each column of a row group that is being decoded, from a disk and over a network."""

PAGE_BYTES, DICTIONARY_BYTES = 1 << 18, 1 << 20
"""What a column's decoder holds, at most: a page, and its dictionary, twice (Arrow's writers end one at 1 MiB)."""

UNFINISHED = ("_", ".")
"""Folders and globs leave out names that start so: they are other programs' unfinished work, or not data."""

OPEN_FILES = 32
"""Files (with their footers) that a reader keeps open: two for each of the 16 default lanes."""


class File(NamedTuple):
    """One Parquet file: its path within its file system, and its size in bytes."""

    filesystem: pafs.FileSystem
    path: str
    size: int

    @property
    def read_bytes(self) -> int:
        """Bytes read at once, for each column."""
        return READ_BYTES if isinstance(self.filesystem, pafs.LocalFileSystem) else REMOTE_READ_BYTES

    def open(self) -> pq.ParquetFile:
        """Reads the footer. Raises UserError for a file that is not there, truncated, or not Parquet."""
        try:  # without pre_buffer, or every open row group would be held in memory as a whole
            file = self.filesystem.open_input_file(self.path)
            return pq.ParquetFile(file, buffer_size=self.read_bytes, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self.path}: not a readable Parquet file ({_line(error)}); it may be truncated or corrupt: "
                "write it again, or leave it out"
            ) from error


class _Footer(NamedTuple):
    """What an index keeps of a file's footer."""

    group_rows: np.ndarray
    schema: pa.Schema
    sample: "Sample"


class Sample(NamedTuple):
    """A row group's rows and, by column, its values (elements, for lists) and the bytes that decoding it takes."""

    rows: int
    values: dict[str, int]
    decoder_bytes: dict[str, int]

    @classmethod
    def of(cls, group: pq.RowGroupMetaData | None, read_bytes: int) -> "Sample":
        """Of a row group's footer. Dictionaries are taken to compress to a quarter, or to their largest size."""
        sample = cls(group.num_rows if group else 0, {}, {})
        for chunk in (group.column(c) for c in range(group.num_columns)) if group else ():
            column = chunk.path_in_schema.split(".")[0]
            size = min(chunk.total_uncompressed_size, PAGE_BYTES) + read_bytes
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                dictionary = 4 * (chunk.data_page_offset - chunk.dictionary_page_offset)
                size += 2 * min(dictionary, DICTIONARY_BYTES, chunk.total_uncompressed_size)
            sample.values[column] = max(sample.values.get(column, 0), chunk.num_values)
            sample.decoder_bytes[column] = sample.decoder_bytes.get(column, 0) + size
        return sample


@dataclass(frozen=True, eq=False)
class Index:
    """All that is known of a data set without reading its rows.

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
        """[groups + 1] int64: the first row of each row group, and the number of all rows."""
        starts = np.zeros(len(self.group_rows) + 1, np.int64)
        np.cumsum(self.group_rows, out=starts[1:])
        return starts

    @property
    def num_rows(self) -> int:
        return int(self.group_starts[-1])

    @property
    def values_per_row(self) -> dict[str, float]:
        """Mean number of values a row, by column (other than 1 for lists only)."""
        return {column: count / self.sample.rows for column, count in self.sample.values.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names, sizes and row groups: equal for a copy in another folder, other for other data."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(f"{posixpath.basename(file.path)}\0{file.size}\0".encode())
        digest.update(self.file_groups.astype("<i8").tobytes())
        digest.update(self.group_rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def group_of(self, row: int) -> int:
        """The row group that holds a row."""
        return int(np.searchsorted(self.group_starts, row, side="right")) - 1

    def group_bounds(self, group: int) -> tuple[int, int]:
        """The first row of a row group, and the one after its last."""
        return int(self.group_starts[group]), int(self.group_starts[group + 1])

    def runs(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Rows start .. stop, cut where row groups end: runs of at most `rows` rows, or of one row group."""
        while start < stop:
            end = stop
            if stop - start > rows:
                end = self.group_bounds(self.group_of(start + rows))[0]
                end = min(end if end > start else self.group_bounds(self.group_of(start))[1], stop)
            yield start, end
            start = end

    def file_of(self, group: int) -> int:
        """The file that holds a row group."""
        return int(np.searchsorted(self.file_groups, group, side="right")) - 1


class Source:
    """A data set of Parquet files."""

    def __init__(self, index: Index) -> None:
        self.index = index

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path]) -> "Source":
        """Finds the files and reads their footers. A folder stands for the *.parquet files in it, at any depth.

        What one path stands for is sorted by name; several paths keep their order; a file counts once.
        Raises UserError for nothing found, no rows, truncated or corrupt files, and files that differ in schema.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        files = _distinct(file for path in given for file in _find(str(path)))
        if not files:
            raise UserError("no data files are named; data paths are Parquet files, folders or globs")
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(files))) as pool:
            footers = list(pool.map(_read_footer, files))
        first = footers[0]
        for file, footer in zip(files, footers, strict=True):
            _check_equal(first.schema, footer.schema, files[0].path, file.path)
        group_rows = np.concatenate([f.group_rows for f in footers])
        if not group_rows.sum():
            raise UserError(f"{', '.join(map(str, given))}: no rows in {len(files)} file(s); expected at least one")
        file_groups = np.cumsum([0, *(len(f.group_rows) for f in footers)]).astype(np.int64)
        sample = max((f.sample for f in footers), key=lambda sample: sample.rows)
        return cls(Index(files, file_groups, group_rows, first.schema, sample))

    @classmethod
    def from_index(cls, index: Index) -> "Source":
        """The data set that another process opened; reads nothing."""
        return cls(index)


class Chunk(NamedTuple):
    """Consecutive rows of one file.

    where, first_row: the file's path and the row's number in it, for error lines; place: its number in the data set
    """

    batch: pa.RecordBatch
    where: str
    first_row: int
    place: int


class RangeReader:
    """Reads ranges of rows of one data set, in one thread; keeps the files open that it used last."""

    def __init__(
        self, index: Index, columns: Sequence[str], chunk_rows: int, on_decoded: Callable[[int], None]
    ) -> None:
        """chunk_rows: rows of a chunk, at most. on_decoded: told how many rows were decoded, the skipped ones too."""
        self.index = index
        self.columns = list(columns)
        self.chunk_rows = chunk_rows
        self._on_decoded = on_decoded
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        """Rows start .. stop of the data set, in chunks. Raises UserError (file) for what cannot be decoded."""
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
        try:
            batches = self._file(number).iter_batches(
                self.chunk_rows, row_groups=list(groups), columns=self.columns, use_threads=False
            )
            for batch in batches:
                rows = batch.num_rows
                self._on_decoded(rows)
                begin, end = max(start - at, 0), min(stop - at, rows)
                held = [Chunk(batch.slice(begin, end - begin), path, at + begin - file_start, at + begin)]
                del batch
                if begin < end:
                    yield held.pop()  # so that a lane that waits for its turn holds no chunk
                at += rows
                if at >= stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: row groups {groups[0]} to {groups[-1]} cannot be decoded ({_line(error)}); "
                "the file is corrupt: write it again, or leave it out"
            ) from error
        raise UserError(f"{path}: {at - file_start} rows found where its footer promised more; write the file again")

    def _file(self, number: int) -> pq.ParquetFile:
        opened = self._open.pop(number, None)
        if opened is None:
            opened = self.index.files[number].open()
            first, last = self.index.file_groups[number : number + 2]
            expected = int(last - first), int(self.index.group_starts[last] - self.index.group_starts[first])
            found = opened.metadata.num_row_groups, opened.metadata.num_rows
            if found != expected:
                raise UserError(
                    f"{self.index.files[number].path}: {found[0]} row groups of {found[1]} rows found, expected "
                    f"{expected[0]} of {expected[1]}; the file was changed after the start: start again"
                )
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
        self._open[number] = opened
        return opened


def _line(error: BaseException) -> str:
    """The first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _read_footer(file: File) -> _Footer:
    with file.open() as opened:
        metadata = opened.metadata
        groups = range(metadata.num_row_groups)
        rows = np.fromiter((metadata.row_group(g).num_rows for g in groups), np.int64, len(groups))
        largest = metadata.row_group(int(rows.argmax())) if rows.any() else None
        return _Footer(rows, opened.schema_arrow.remove_metadata(), Sample.of(largest, file.read_bytes))


def _check_equal(expected: pa.Schema, found: pa.Schema, first: str, path: str) -> None:
    """Raises UserError where a file's columns differ from the first file's (their order may)."""
    if found.equals(expected):
        return
    remedy = "all files of a data set need the same columns and types: write one of them again"
    for field in expected:
        if field.name not in found.names:
            raise UserError(f"{path}: no column {field.name!r}, expected {field.type} as in {first}; {remedy}")
        kinds = [found.field(i).type for i in found.get_all_field_indices(field.name)]
        if field.type not in kinds:
            raise UserError(
                f"{path}: column {field.name!r} is {kinds[0]}, expected {field.type} as in {first}; {remedy}"
            )
    for name in found.names:
        if name not in expected.names:
            raise UserError(f"{path}: column {name!r} is not in {first}; {remedy}")


# ---------------------------------------------------------------- finding files


def _find(given: str) -> list[File]:
    """The files that a path, folder, glob or URI stands for, sorted. Raises UserError where there are none."""
    try:
        if "://" in given:
            filesystem, path = pafs.FileSystem.from_uri(given)
        else:
            filesystem, path = pafs.LocalFileSystem(), Path(given).expanduser().absolute().as_posix()
        found = [i for i in _matches(filesystem, path) if i.is_file]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{given}: cannot be read as a data path ({_line(error)})") from error
    if not found:
        raise UserError(f"{given}: no such Parquet file, and no *.parquet files in such a folder; check the data paths")
    return [File(filesystem, i.path, i.size) for i in sorted(found, key=lambda i: i.path)]


def _distinct(files: Iterable[File]) -> tuple[File, ...]:
    """Each file once, at its first place."""
    found: dict[str, list[File]] = {}
    order = []
    for file in files:
        same_path = found.setdefault(file.path, [])
        if not any(file.filesystem == other.filesystem for other in same_path):
            same_path.append(file)
            order.append(file)
    return tuple(order)


def _matches(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """What a path, or else a glob, stands for."""
    return _entry(filesystem, path) or _expand(filesystem, "", path.split("/"))


def _entry(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """The file of this name, or the *.parquet files of the folder of this name."""
    info = filesystem.get_file_info(path)
    return _parquet_files(filesystem, path) if info.type == pafs.FileType.Directory else [info] * info.is_file


def _expand(filesystem: pafs.FileSystem, folder: str, parts: Sequence[str]) -> list[pafs.FileInfo]:
    """What `folder` / `parts` matches; `**` stands for any number of folders."""
    plain = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    folder, parts = "/".join([*([folder] if folder else []), *parts[:plain]]), parts[plain:]
    if not parts:
        return _entry(filesystem, folder)
    found = []
    inside = filesystem.get_file_info(pafs.FileSelector(folder or "/", allow_not_found=True))
    inside = [info for info in inside if not info.base_name.startswith(UNFINISHED)]
    if parts[0] == "**":
        rest = parts[1:] or ["*.parquet"]
        found += _expand(filesystem, folder, rest)
        for info in inside:
            if info.type == pafs.FileType.Directory:
                found += _expand(filesystem, info.path, ["**", *rest])
        return found
    for info in inside:
        if fnmatchcase(info.base_name, parts[0]):
            found += _expand(filesystem, info.path, parts[1:])
    return found


def _parquet_files(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """A folder's *.parquet files, at any depth."""
    found = []
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        below = info.path[len(folder) :].strip("/").split("/")
        if info.path.endswith(".parquet") and not any(part.startswith(UNFINISHED) for part in below):
            found.append(info)
    return found
