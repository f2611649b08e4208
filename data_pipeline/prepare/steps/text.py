"""Delimited text, plain or gzip, is read as typed record batches: by pyarrow's CSV reader, streamed, errors by line.

Fields are read as strings and converted afterwards, so that a field that cannot be converted is named by its line.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import Field

from shardrec.data_pipeline.declaration import Declaration, unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.prepare.steps.source import RawSource
from shardrec.data_pipeline.prepare.steps.writer import Split

BLOCK_BYTES = 8 << 20
_EXPECTED = {pa.int64(): "an integer", pa.float64(): "a number"}


class TextFormat(Declaration):
    """A text format says how a delimited file is written; `columns` names the fields where no header line does."""

    delimiter: str = Field(default=",", min_length=1)
    header: bool = True
    columns: tuple[str, ...] | None = None
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    null_values: tuple[str, ...] = ("",)
    encoding: str = "utf-8"


@dataclass
class TextFile(RawSource):
    """A text file is a delimited one.

    types: the columns to read, and as what: string, int64, float64, or a list of one of these
    separators: what separates the elements of the list columns
    optional: columns that the file may lack; they are then left out
    """

    path: str
    format: TextFormat
    types: Mapping[str, pa.DataType]
    separators: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    labeled: bool = True
    optional: frozenset[str] = frozenset()

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the rows in order. Raises UserError (file, line) for a column that is not there."""
        names = self.column_names()
        wanted = [c for c in (self.types if columns is None else columns) if c in names or c not in self.optional]
        for c in wanted:
            if c not in names:
                raise UserError(f"{self.path}, line 1: {unknown('column', c, names)}")
        line = 2 if self.format.header else 1
        for batch in self._parsed(names, wanted):
            origin = Origin(self.path, line, "line")
            line += batch.num_rows
            yield self._typed(batch, origin), origin

    def column_names(self) -> list[str]:
        """Returns the names of the file's fields. Raises UserError for an empty file, or another number of fields."""
        first = first_line(self.path, self.format.encoding)
        names = [f.strip(self.format.quote or "") for f in first.split(self.format.delimiter)]
        declared = self.format.columns
        if self.format.header and declared is None:
            return names
        if declared is None:
            raise UserError(f"{self.path}: no header line and no column names; declare `columns` in the format")
        if len(names) != len(declared):
            raise UserError(f"{self.path}, line 1: found {len(names)} fields, expected {len(declared)}")
        return list(declared)

    def _parsed(self, names: list[str], wanted: list[str]) -> Iterator[pa.RecordBatch]:
        form = self.format
        delimiter = form.delimiter
        with open_bytes(self.path) as stream:
            if len(delimiter) > 1:
                stream, delimiter = _Translated(stream, delimiter.encode(), b"\x01"), "\x01"
            try:
                reader = pyarrow.csv.open_csv(
                    stream,
                    pyarrow.csv.ReadOptions(
                        use_threads=False,
                        block_size=BLOCK_BYTES,
                        column_names=names,
                        skip_rows=int(form.header),
                        encoding=form.encoding,
                    ),
                    pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=form.quote or False),
                    pyarrow.csv.ConvertOptions(
                        column_types={c: pa.string() for c in wanted},
                        include_columns=wanted,
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                        null_values=list(form.null_values),
                    ),
                )
                yield from reader
            except pa.ArrowInvalid as error:
                if "Empty CSV file" in str(error):  # a header and nothing else
                    return
                raise UserError(f"{self.path}{_explained(str(error))}") from None
            except OSError as error:
                raise UserError(f"{self.path}: damaged: {error}; fetch or write it again") from None
            except UnicodeError as error:
                raise UserError(f"{self.path}: not {form.encoding}: {error}") from None

    def _typed(self, batch: pa.RecordBatch, origin: Origin) -> pa.RecordBatch:
        names = batch.schema.names
        arrays = []
        for name in names:
            place = Place(origin, name)
            values = batch.column(name)
            kind = self.types[name]
            if pa.types.is_list(kind):
                lists = pc.split_pattern(values, self.separators[name])
                elements = converted(lists.values, kind.value_type, place._replace(rows=_row_of(lists)))
                mask = lists.is_null() if lists.null_count else None
                arrays.append(pa.ListArray.from_arrays(lists.offsets, elements, mask=mask))
            else:
                arrays.append(converted(values, kind, place))
        return pa.RecordBatch.from_arrays(arrays, names=names)


def _row_of(lists: pa.ListArray) -> Any:
    return lambda at: int(pc.sum(pc.less_equal(lists.offsets, at)).as_py()) - 1


def converted(values: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
    """Returns strings as `kind`. Raises UserError for the first one that is not of that kind."""
    if values.type == kind:
        return values
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        low, high = 0, len(values)  # the first wrong one is in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                values.slice(low, middle - low).cast(kind)
                low = middle
            except pa.ArrowInvalid:
                high = middle
        raise place.error(low, repr(values[low].as_py()), _EXPECTED.get(kind, str(kind))) from None


def open_bytes(path: str) -> Any:
    """Opens a file's bytes, decompressed if it is gzip (told by its first bytes, not by its name)."""
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        return pa.input_stream(path, compression="gzip" if compressed else None)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def first_line(path: str, encoding: str = "utf-8") -> str:
    """Returns the first line without its end. Raises UserError for an empty or unreadable file."""
    with open_bytes(path) as stream:
        try:
            line = io.BufferedReader(stream).readline().decode(encoding)
        except OSError as error:
            raise UserError(f"{path}: damaged: {error}; fetch or write it again") from None
        except UnicodeError as error:
            raise UserError(f"{path}, line 1: not {encoding}: {error}") from None
    if not line:
        raise UserError(f"{path}: is empty")
    return line.rstrip("\r\n").removeprefix("\ufeff")


def _explained(problem: str) -> str:
    """Returns pyarrow's message as `, line 3: found 1 fields, expected 2`."""
    counted = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", problem)
    if counted:
        line, expected, actual = counted.groups()
        return f", line {line}: found {actual} fields, expected {expected}"
    placed = re.search(r"Row #(\d+): (.*)", problem, re.DOTALL)
    if placed:
        return f", line {placed[1]}: {' '.join(placed[2].split())}"
    return f": {' '.join(problem.split())}"


class _Translated(io.RawIOBase):
    """A translated stream has one byte in place of each longer delimiter, which pyarrow's reader does not know."""

    def __init__(self, stream: Any, delimiter: bytes, byte: bytes) -> None:
        self._stream, self._delimiter, self._byte = stream, delimiter, byte
        self._held = b""  # the end of a block that a delimiter may straddle
        self._ready = b""

    def readable(self) -> bool:
        """Tells that the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` with translated bytes and returns how many there are."""
        while not self._ready:
            block = self._stream.read(max(len(buffer), 1 << 16))
            data = self._held + block
            keep = len(self._delimiter) - 1 if block else 0
            pieces = data.split(self._delimiter)
            tail = pieces[-1]
            kept = tail[len(tail) - keep :] if keep else b""
            pieces[-1] = tail[: len(tail) - len(kept)]
            self._ready, self._held = self._byte.join(pieces), kept
            if not block:
                break
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)
