"""Delimited text is read as typed record batches: by pyarrow's CSV reader, block by block, errors by line.

Blocks are of whole records, so that quotes, delimiters and line breaks in quotes are read as RFC 4180 has them. Fields
are read as strings and converted afterwards, so that a field that cannot be converted is named by its line.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import Field, field_validator, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, unknown
from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.prepare.steps.lines import Lines, first_record, line_blocks
from shardrec.data_pipeline.prepare.steps.quoting import Quoting
from shardrec.data_pipeline.prepare.steps.source import RawSource
from shardrec.data_pipeline.prepare.steps.writer import Split

MOST_FIELDS = 100_000
_EXPECTED = {pa.int64(): "an integer", pa.float64(): "a number"}
_NO_CHARSETS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")  # Python's, but for other uses
_BOM = codecs.BOM_UTF8
_ANY_FIELD = re.compile(rb"[^\r\n]")
_ODD_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


class TextFormat(Declaration):
    """A text format says how a delimited file is written; `columns` names the fields where no header line does."""

    delimiter: str = Field(default=",", min_length=1)
    header: bool = True
    columns: tuple[str, ...] | None = None
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    null_values: tuple[str, ...] = ("",)
    encoding: str = "utf-8"

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            name = codecs.lookup(encoding).name.replace("_", "-")
            with suppress(UnicodeError):
                b"?".decode(encoding)  # refuses what is not text, such as hex
        except (LookupError, ValueError):
            name = "undefined"
        if name in _NO_CHARSETS:
            known = "one that Python knows, such as utf-8, utf-16, latin-1 or cp1252"
            raise ValueError(f"unknown encoding {shortened(encoding)!r}; expected {known}")
        return encoding

    @model_validator(mode="after")
    def _distinct(self) -> "TextFormat":
        if self.quote is not None and not (self.quote.isascii() and self.quote not in "\r\n\0\x7f"):
            raise ValueError(f"quote: found {self.quote!r}, expected an ASCII character that ends no line")
        if any(c in self.delimiter for c in "\r\n" + (self.quote or "")):
            raise ValueError(f"delimiter: found {shortened(self.delimiter)!r}, expected no line end or quote in it")
        return self

    @property
    def quoting(self) -> Quoting:
        """Returns how fields are told apart, in UTF-8."""
        return Quoting(self.delimiter.encode(), self.quote.encode() if self.quote else None)


@dataclass
class TextFile(RawSource):
    """A text file is a delimited one.

    types: the columns to read, and as what: string, int64, float64, or a list of one of these
    separators: what separates the elements of the list columns; empty elements are left out
    paired: list columns whose elements belong to another list's, so that an empty one is an error
    gapped: list columns whose elements do too, and whose empty ones are null
    optional: columns that the file may lack; they are then left out
    """

    path: str
    format: TextFormat
    types: Mapping[str, pa.DataType]
    separators: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    labeled: bool = True
    optional: frozenset[str] = frozenset()
    paired: frozenset[str] = frozenset()
    gapped: frozenset[str] = frozenset()

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the rows in order. Raises UserError (file, line) for a column that is not there, or is there twice."""
        names, line = self._names()
        times = Counter(names)
        wanted = [c for c in (self.types if columns is None else columns) if c in times or c not in self.optional]
        for c in wanted:
            if c not in times:
                raise UserError(f"{self.path}, line {line}: {unknown('column', c, names)}")
            if times[c] > 1:
                raise UserError(
                    f"{self.path}, line {line}: column {shortened(c)!r} is there {times[c]} times, expected it once"
                )
        place_of = {name: str(place) for place, name in enumerate(names)}
        places = [place_of[c] for c in wanted] or ["0"]
        for lines in self._rows():
            origin = Origin(self.path, lines.first, "line", _LineOf(lines, self.format.quoting))
            batch = self._parsed(lines, len(names), places).rename_columns(wanted or ["0"])
            if batch.num_rows:
                yield self._typed(batch, origin), origin

    def column_names(self) -> list[str]:
        """Returns the names of the file's fields. Raises UserError for an empty file, or another number of fields."""
        return self._names()[0]

    def _names(self) -> tuple[list[str], int]:
        """Returns the names of the fields and the line that has them."""
        declared = self.format.columns
        if not self.format.header and declared is None:
            raise UserError(f"{self.path}: no header line and no column names; declare `columns` in the format")
        first = first_record(self.path, self.format.quoting, self.format.encoding)
        names = self._fields(first)
        if declared is None:
            return names, first.first
        if len(names) != len(declared):
            raise UserError(f"{self.path}, line {first.first}: found {len(names)} fields, expected {len(declared)}")
        return list(declared), first.first

    def _fields(self, record: Lines) -> list[str]:
        """Returns the fields of one record. Raises UserError where there are too many, or too long ones."""
        quoting = self.format.quoting
        if record.data.count(quoting.delimiter) >= MOST_FIELDS:
            raise UserError(f"{self.path}, line {record.first}: more than {MOST_FIELDS:,} fields; check the delimiter")
        data, delimiter = quoting.with_one_byte(record.data)
        how: dict[str, Any] = {"quotechar": self.format.quote} if self.format.quote else {"quoting": csv.QUOTE_NONE}
        try:
            text = data.decode()
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter.decode(), **how))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}, line {record.first}: not {self.format.encoding}: {error.reason}") from None
        except csv.Error as error:
            raise UserError(f"{self.path}, line {record.first}: {error}; check delimiter and quote") from None

    def _rows(self) -> Iterator[Lines]:
        """Yields the lines that hold rows."""
        form = self.format
        header = form.header
        for lines in line_blocks(self.path, form.quoting, form.encoding):
            if header:
                records = lines.records(form.quoting)
                if not len(records):
                    continue
                end = int(records[0, 1])
                lines, header = Lines(lines.data[end:], lines.line_of(end)), False
            if _ANY_FIELD.search(lines.data):
                yield lines

    def _parsed(self, lines: Lines, fields: int, wanted: list[str]) -> pa.RecordBatch:
        """Returns the wanted of `0`, `1`, ... as strings. Raises UserError (file, line) for too many or too few."""
        form = self.format
        data, delimiter = form.quoting.with_one_byte(lines.data)
        if data.startswith(_BOM):  # a character here, but the reader would leave it out
            data = b"\n" + data
        read = pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=[str(place) for place in range(fields)]
        )
        parse = pyarrow.csv.ParseOptions(delimiter=delimiter.decode(), quote_char=form.quote or False)
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=list(form.null_values),
        )
        try:
            table = pyarrow.csv.read_csv(pa.BufferReader(data), read, parse, convert)
        except pa.ArrowInvalid as error:
            raise self._explained(str(error), lines) from None
        batches = table.to_batches()
        return batches[0] if len(batches) == 1 else table.combine_chunks().to_batches()[0]

    def _explained(self, problem: str, lines: Lines) -> UserError:
        """Returns what pyarrow says as `file, line 3: found 1 fields, expected 2`."""
        line_of = _LineOf(lines, self.format.quoting)
        if odd := _ODD_ROW.search(problem):  # pyarrow's own handler of such rows fails where they are not UTF-8
            row, expected, found = map(int, odd.groups())
            return UserError(f"{self.path}, line {line_of(row - 1)}: found {found} fields, expected {expected}")
        placed = re.search(r"Row #(\d+): (.*)", problem, re.DOTALL)
        if placed and "UTF8" in problem:
            line = line_of(int(placed[1]) - 1)
            return UserError(f"{self.path}, line {line}: not UTF-8; write it so, or set `encoding` in a recipe")
        line = line_of(int(placed[1]) - 1) if placed else lines.first
        return UserError(f"{self.path}, line {line}: {shortened(placed[2] if placed else problem, 200)}")

    def _typed(self, batch: pa.RecordBatch, origin: Origin) -> pa.RecordBatch:
        names = batch.schema.names
        arrays = []
        for name in names:
            place = Place(origin, name)
            values = batch.column(name)
            kind = self.types.get(name, pa.string())
            if pa.types.is_list(kind):
                arrays.append(self._lists(values, kind, place))
            else:
                arrays.append(converted(values, kind, place))
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def _lists(self, values: pa.Array, kind: pa.DataType, place: Place) -> pa.ListArray:
        """Returns fields split into elements. Raises UserError (line, column) for one that cannot be converted."""
        lists = pc.split_pattern(values, self.separators[place.column])
        offsets = lists.offsets.to_numpy()
        elements = lists.values
        empty = pc.equal(elements, "").to_numpy(zero_copy_only=False)
        if empty.any():
            at = int(empty.argmax())
            row = int(np.searchsorted(offsets, at, side="right")) - 1
            if place.column in self.paired and len(values[row].as_py()):
                raise place.error(row, "an empty element", "one for each element of the list beside it")
            if place.column in self.gapped:
                elements = pc.if_else(pa.array(empty), pa.scalar(None, pa.string()), elements)
                empty &= np.repeat(np.diff(offsets) == 1, np.diff(offsets))  # fields that hold nothing are empty lists
            kept = np.concatenate([[0], np.cumsum(~empty)])
            offsets, elements = kept[offsets].astype(np.int32), elements.filter(pa.array(~empty))
        row_of = place._replace(rows=lambda at: int(np.searchsorted(offsets, at, side="right")) - 1)
        elements = converted(elements, kind.value_type, row_of)
        return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=lists.is_null() if lists.null_count else None)


class _LineOf:
    """This finds the line that a block's row begins in, which only an error asks for."""

    def __init__(self, lines: Lines, quoting: Quoting) -> None:
        self._lines, self._quoting = lines, quoting

    def __call__(self, row: int) -> int:
        """Returns the number of the line that row `row` of the block begins in."""
        return self._lines.line_of(int(self._lines.records(self._quoting)[row, 0]))


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
        raise place.error(low, repr(shortened(values[low].as_py())), _EXPECTED.get(kind, str(kind))) from None


def no_null(batch: pa.RecordBatch, column: str, origin: Origin) -> None:
    """Raises UserError (file, line, column) for the first empty field of a column, in quotes or not."""
    values = batch.column(column)
    empty = values.is_null()
    if pa.types.is_string(values.type):
        empty = pc.or_(empty, pc.equal(values, "").fill_null(True))
    at = pc.index(empty, True).as_py()
    if at >= 0:
        raise Place(origin, column).error(at, "an empty field", _EXPECTED.get(values.type, "a value"))
