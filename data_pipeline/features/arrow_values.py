"""What readers know of Arrow arrays: their types, NumPy views of them, what is missing, where a value came from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.declaration import unknown
from shardrec.data_pipeline.errors import UserError


class Origin(NamedTuple):
    """A batch's place in its file, for error lines: `file` (and row group), its first row's number, what is counted."""

    file: str
    first: int = 0
    unit: str = "row"

    @classmethod
    def of(cls, where: "str | Origin") -> "Origin":
        """A plain string counts rows from the batch's start."""
        return cls(where) if isinstance(where, str) else where

    def row(self, at: int | np.integer) -> str:
        """`file, row 17` for the batch's row `at`."""
        return f"{self.file}, {self.unit} {self.first + int(at)}"


class Place(NamedTuple):
    """Where a column's values came from. `rows` maps a value's place to its row in the batch (None: the same)."""

    origin: Origin
    column: str
    rows: Callable[[int], int] | None = None

    def error(self, at: int | np.integer, found: object, expected: str) -> UserError:
        """The line for the value at place `at`."""
        row = self.rows(int(at)) if self.rows else int(at)
        return UserError(f"{self.origin.row(row)}, column {self.column!r}: found {found}, expected {expected}")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values, else the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Lists of any kind: 32- or 64-bit offsets, or fixed size."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    """What `floats` reads."""
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def column_type(schema: pa.Schema, file: str, column: str, reader: str) -> pa.DataType:
    """The type of `column`. Raises UserError where there is none, or several."""
    places = schema.get_all_field_indices(column)
    if len(places) == 1:
        return schema.field(places[0]).type
    if places:
        raise UserError(f"{file}: column {column!r} is there {len(places)} times; {reader} needs exactly one")
    raise UserError(f"{file}: {unknown('column', column, schema.names)} ({reader} reads it)")


def expect_type(right: bool, file: str, column: str, found: pa.DataType, expected: str, reader: str) -> None:
    """Raises UserError (file, column, found, expected) unless `right`."""
    if not right:
        raise UserError(f"{file}: column {column!r} is {found}, but {reader} expects {expected}; change data or schema")


def integers(values: pa.Array) -> np.ndarray:
    """Integer array -> NumPy, a view where nothing is null; null becomes 0."""
    if values.null_count:
        values = values.fill_null(0)
    return values.to_numpy()


def floats(values: pa.Array) -> np.ndarray:
    """float32 arrays as they are, others as float64; null becomes NaN."""
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
    """[n] bool: null or NaN; None where nothing is."""
    missing = None
    if values.null_count or (pa.types.is_dictionary(values.type) and values.dictionary.null_count):
        missing = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(plain_type(values.type)):
        nan = np.isnan(floats(values))  # null is NaN here
        if nan.any():
            missing = nan
    return missing
