"""Any range of an index's rows is read: pyarrow decodes a row group from its start, in chunks.

What a range skips is decoded too, and counted.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import is_list
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE
from shardrec.data_pipeline.reading.files import UnreadableError, short_message
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.stores.retries import gone_on_with, is_away

OPEN_FILES, REMOTE_OPEN_FILES = 32, 4
"""Files kept open for their next use: two for each of 16 lanes, but few where a file holds on to fetched row groups."""


class Chunk(NamedTuple):
    """A chunk is consecutive rows of one file.

    where, first_row: the file's path and the row's number in it, for error lines; place: its number in the data set
    """

    batch: pa.RecordBatch
    where: str
    first_row: int
    place: int

    @property
    def rows(self) -> int:
        """Returns the number of rows."""
        return self.batch.num_rows

    def part(self, start: int, stop: int) -> "Chunk":
        """Returns the rows whose places in the data set are start .. stop, maybe none."""
        begin = min(max(start - self.place, 0), self.rows)
        end = min(max(stop - self.place, begin), self.rows)
        return Chunk(self.batch.slice(begin, end - begin), self.where, self.first_row + begin, self.place + begin)


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
        self.whole_rows = whole_rows
        self._on_decoded = on_decoded
        self._footer_memory = footer_memory
        self._open: OrderedDict[tuple[int, bool], pq.ParquetFile] = OrderedDict()

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yields rows start .. stop of the data set, in chunks.

        Raises UnreadableError (file, row group) for what cannot be decoded, and for a file that is gone or another one;
        StoreError as `tried`.
        """
        yield from gone_on_with(
            lambda done: self._read(start + done, stop),
            lambda chunk: chunk.batch.num_rows,
            lambda done: self._named(start + done),
        )

    def _read(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yields what `read` does, while the store of the files is there."""
        index = self.index
        while start < stop:
            group = index.group_of(start)
            file = index.file_of(group)
            file_stop = min(stop, int(index.group_starts[index.file_groups[file + 1]]))
            yield from self._read_file(file, group, start, file_stop)
            start = file_stop

    def _named(self, row: int) -> str:
        group = self.index.group_of(row)
        file = self.index.file_of(group)
        return f"{self.index.files[file].path}: row group {group - int(self.index.file_groups[file])} read"

    def _read_file(self, number: int, group: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields rows of one file. A file that was changed meanwhile is noticed before its rows are handed over."""
        index, file = self.index, self.index.files[number]
        first_group = int(index.file_groups[number])
        file_start, at = int(index.group_starts[first_group]), int(index.group_starts[group])
        groups = range(group - first_group, index.group_of(stop - 1) - first_group + 1)
        piecewise = int(index.group_starts[first_group + groups.stop]) - at > self.whole_rows
        try:
            for batch in self._decoded(self._file(number, piecewise), groups):
                index.sightings.check(file)
                row_count = batch.num_rows
                self._on_decoded(row_count)
                begin, end = max(start - at, 0), min(stop - at, row_count)
                handed_over = [Chunk(batch.slice(begin, end - begin), file.path, at + begin - file_start, at + begin)]
                del batch
                if begin < end:
                    yield handed_over.pop()  # so that a lane that waits for its turn holds no chunk
                at += row_count
                if at >= stop:
                    return
        except UNREADABLE as error:
            if is_away(error):
                self._open.pop((number, piecewise), None)
                raise
            index.sightings.check(file)
            raise self._undecodable(number, groups, error) from error
        index.sightings.check(file)
        raise UnreadableError(
            f"{file.path}: {at - file_start} rows found where its footer promised more; write the file again"
        )

    def _decoded(self, opened: pq.ParquetFile, groups: range) -> Iterator[pa.RecordBatch]:
        """Yields the chunks of some row groups, which pyarrow reads one by one where lists hold categories."""
        categories = any(_holds_categories(opened.schema_arrow, column) for column in self._columns)
        for together in [[group] for group in groups] if categories else [list(groups)]:
            yield from opened.iter_batches(
                self._chunk_rows, row_groups=together, columns=self._columns, use_threads=False
            )

    def _undecodable(self, number: int, groups: range, error: BaseException) -> UserError:
        """Returns the error about the first of some row groups that cannot be decoded, which is looked for."""
        found = next(filter(None, (self._problem(number, group) for group in groups)), None)
        named, error = found or (f"one of row groups {groups[0]} to {groups[-1]}", error)
        message = f"{self.index.files[number].path}: {named} cannot be decoded ({short_message(error)}); "
        if isinstance(error, pa.ArrowNotImplementedError):
            return UserError(message + "pyarrow cannot read it: write it with smaller row groups or plainer types")
        return UnreadableError(message + "the file is corrupt: write it again, or leave it out")

    def _problem(self, number: int, group: int) -> tuple[str, BaseException] | None:
        """Returns a row group in words, and why it cannot be decoded; None where it can."""
        try:
            with self.index.open(number, piecewise=True) as opened:
                for _ in self._decoded(opened, range(group, group + 1)):
                    pass
        except UNREADABLE as error:
            return f"row group {group}", error
        return None

    def _file(self, number: int, piecewise: bool) -> pq.ParquetFile:
        index, file = self.index, self.index.files[number]
        opened = self._open.pop((number, piecewise), None)
        if opened is None:
            opened = index.open(number, piecewise=piecewise)
        else:
            index.sightings.check(file)
        self._open[number, piecewise] = opened
        most = REMOTE_OPEN_FILES if file.remote else OPEN_FILES
        while len(self._open) > 1 and (len(self._open) > most or self._footers() > self._footer_memory):
            self._open.popitem(last=False)
        return opened

    def _footers(self) -> int:
        return sum(self.index.footer_bytes(number) for number, _ in self._open)


def _holds_categories(schema: pa.Schema, column: str) -> bool:
    """Tells whether a column has lists of dictionary-encoded values, whose dictionaries differ by row group."""
    return any(
        is_list(kind) and pa.types.is_dictionary(kind.value_type)
        for kind in (schema.field(place).type for place in schema.get_all_field_indices(column))
    )
