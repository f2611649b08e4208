"""Arrow arrays as readers see them: their types, NumPy views of them, what is missing, where a value came from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, in_quotes, shortened

_LONGEST_NAME = 250  # characters of a column's name that an error line shows


class Origin(NamedTuple):
    """An origin says where a batch lies in its file, for error lines.

    file: the file, and its row group where that is known
    first: the number of the batch's first row
    unit: what is counted
    number_of: the number of each of the batch's rows, where they do not follow each other (rows of several lines)
    """

    file: str
    first: int = 0
    unit: str = "row"
    number_of: Callable[[int], int] | None = None

    @classmethod
    def of(cls, where: "str | Origin") -> "Origin":
        """Returns an origin as it is; a plain string counts rows from the batch's start."""
        return cls(where) if isinstance(where, str) else where

    def row(self, at: int | np.integer) -> str:
        """Returns `file, row 17` for the batch's row `at`."""
        number = self.first + int(at) if self.number_of is None else self.number_of(int(at))
        return f"{self.file}, {self.unit} {number}"


class Place(NamedTuple):
    """A place says which file and column a value came from. `rows` maps its index to its row (None: they are equal)."""

    origin: Origin
    column: str
    rows: Callable[[int], int] | None = None

    def error(self, at: int | np.integer, found: object, expected: str) -> UserError:
        """Returns the error about the value at index `at`: its row and column, what was found and was expected."""
        row = self.rows(int(at)) if self.rows else int(at)
        where = f"{self.origin.row(row)}, column {shortened(repr(self.column), _LONGEST_NAME)}"
        return UserError(f"{where}: found {shortened(str(found), 160)}, expected {shortened(expected, 400)}")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of a dictionary's values, else the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Tells whether a type is a list of any kind: with 32- or 64-bit offsets, of fixed size, or a view."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or is_list_view(kind)


def is_list_view(kind: pa.DataType) -> bool:
    """Tells whether a type is a list whose rows may lie anywhere among the values."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def is_null(kind: pa.DataType) -> bool:
    """Tells whether a type is that of columns in which nothing is known, as pandas writes columns of None."""
    return bool(pa.types.is_null(kind))


def as_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Returns values of the null type as nulls of another one, and others as they are."""
    return pa.nulls(len(values), kind) if is_null(plain_type(values.type)) else values


def is_number(kind: pa.DataType) -> bool:
    """Tells whether `floats` reads arrays of this type."""
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def column_type(schema: pa.Schema, file: str, column: str, reader: str) -> pa.DataType:
    """Returns the type of `column`. Raises UserError where there is none, or several."""
    places, reader, shown = schema.get_all_field_indices(column), shortened(reader, 150), in_quotes(column)
    if len(places) == 1:
        return schema.field(places[0]).type
    if places:
        raise UserError(f"{file}: column {shown} is there {len(places)} times; {reader} needs exactly one")
    if f"/{column}=" in file:
        raise UserError(
            f"{file}: column {shown} is not in the file but in the names of its folders, which are not read; write "
            f"it into the files ({reader} reads it)"
        )
    raise UserError(f"{file}: {unknown('column', column, schema.names)} ({reader} reads it)")


def expect_type(right: bool, file: str, column: str, found: pa.DataType, expected: str, reader: str) -> None:
    """Raises UserError (file, column, found, expected) unless `right`."""
    if not right:
        raise UserError(f"{file}: column {column!r} is {found}, but {reader} expects {expected}; change data or schema")


def integers(values: pa.Array) -> np.ndarray:
    """Returns an integer array as NumPy, a view where nothing is null; null becomes 0."""
    if values.null_count:
        values = values.fill_null(0)
    return values.to_numpy()


def floats(values: pa.Array) -> np.ndarray:
    """Returns a float32 array as it is and others as float64; null becomes NaN."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind == "O":  # booleans with nulls
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers if numbers.dtype == np.float32 else numbers.astype(np.float64, copy=False)


def missing_values(values: pa.Array) -> np.ndarray | None:
    """Returns [n] bool: which values are null or NaN; None where none is."""
    missing = None
    if values.null_count or (pa.types.is_dictionary(values.type) and values.dictionary.null_count):
        missing = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(plain_type(values.type)):
        nan = np.isnan(floats(values))  # null is NaN here
        if nan.any():
            missing = nan
    return missing
