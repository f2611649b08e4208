"""Rows come as tables, frames, dicts and lists; their values are read as Arrow arrays, or refused by their type."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .hashing import hash_texts, hash_words

ANY = "string or int64"  # the type of columns that are hashed: 7 and "7" are two ids
LONGEST = 1 << 16  # bytes of a string that is an id
BLOCK_ROWS = 4096  # rows that are scored at once
NAMED = 8  # columns that an error names

_TYPES = {"string": pa.large_binary(), ANY: pa.int64(), "int64": pa.int64(), "uint64": pa.uint64()}
_TYPES |= {"bool": pa.bool_(), "float": pa.float64(), "double": pa.float64()}
VALUE_TYPES = tuple(_TYPES)
_READ = {"string": {"string"}, "int64": {"integer", "number"}, "bool": {"bool"}}
_READ |= {"uint64": _READ["int64"], ANY: {"string", "integer", "number", "bool"}}
_READ |= {"float": {"integer", "number", "decimal", "bool"}, "double": {"integer", "number", "decimal", "bool"}}
REFUSED = (pa.ArrowException, OverflowError, TypeError, ValueError)
PLAIN_NUMBERS = {float, int, bool, type(None)}


class RowError(ValueError):
    """A row cannot be read. `row` counts from 0, None where all rows are meant; `feature` is the one that reads it."""

    def __init__(self, message: str, row: int | None = None, feature: str | None = None) -> None:
        where = [] if row is None else [f"row {row}"]
        super().__init__(": ".join([*where, *([] if feature is None else [f"feature {feature!r}"]), message]))
        self.message, self.row, self.feature = message, row, feature


def bad(at: Any, found: object, expected: str) -> RowError:
    """Returns the error about the value at a place of an array: the feature that reads it says which row that is."""
    text = str(found)
    return RowError(f"found {text[:80]}{'...' * (len(text) > 80)}, expected {expected}", int(at))


def kind_of(t: pa.DataType) -> str:
    """Returns what values of a type are: string, integer, bool, number, decimal, or the type's name."""
    if pa.types.is_integer(t):
        return "integer"
    if pa.types.is_floating(t):
        return "number"
    name = str(t).removeprefix("large_").removesuffix("_view").partition("128(")[0]
    return "string" if name == "binary" else name


def floats(array: pa.Array, wanted: str = "double") -> np.ndarray:
    """Returns [n] float64, NaN where nothing is known, of the precision that is wanted."""
    return rounded(np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)), wanted)


def rounded(numbers: np.ndarray, wanted: str) -> np.ndarray:
    """Returns numbers in the precision that is wanted."""
    if wanted != "float":
        return numbers
    with np.errstate(over="ignore"):  # to infinity, which is refused
        return numbers.astype(np.float32).astype(np.float64)


def integers(array: pa.Array) -> np.ndarray:
    """Returns [n] int64, 0 where nothing is known; unsigned ones by their bits."""
    return np.asarray(array.cast(pa.int64(), safe=False).fill_null(0).to_numpy())


def _plain(array: pa.Array, wanted: str) -> pa.Array:
    """Returns an array without dictionary, integers as such. Raises RowError for values of another type."""
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if array.null_count == len(array):
        return pa.nulls(len(array), _TYPES[wanted])
    kind = kind_of(array.type)
    if kind not in _READ[wanted]:
        at = pc.index(pc.is_valid(array), True).as_py()
        raise bad(at, repr(array[at].as_py()), wanted)
    if kind == "number" and _TYPES[wanted] != pa.float64():  # how pandas holds integers with nulls
        numbers = floats(array)
        whole = np.isnan(numbers) | (np.abs(numbers) < 2.0**63) & (np.floor(numbers) == numbers)
        if not whole.all():
            raise bad(whole.argmin(), numbers[whole.argmin()], "an integer")
        return pa.array(numbers, from_pandas=True).cast(pa.int64())
    return array


def read_as(wanted: str, read: Callable[[pa.Array], np.ndarray], values: Any) -> np.ndarray:
    """Reads an Arrow array, or Python values: those of each type as one array."""
    if isinstance(values, pa.Array):
        return read(_plain(values, wanted))
    if len(set(map(type, values))) <= 1:
        return read(_plain(_arrow(values, wanted), wanted))
    by_type: dict[type, list[int]] = {}
    for at, value in enumerate(values):
        by_type.setdefault(type(value), []).append(at)
    parts = []
    for places in by_type.values():
        try:
            parts.append(read(_plain(_arrow([values[at] for at in places], wanted), wanted)))
        except RowError as error:
            raise RowError(error.message, places[error.row or 0]) from None
    return np.concatenate(parts)[np.argsort(np.concatenate(list(by_type.values())))]


def _arrow(values: list[Any], wanted: str) -> pa.Array:
    """Returns values of one Python type. Raises RowError for one that Arrow cannot hold."""
    try:
        return pa.array(values, from_pandas=True)
    except REFUSED:
        if all(type(value) is int and -(2**63) <= value < 2**64 for value in values):
            return pa.array([value % 2**64 for value in values], pa.uint64())  # the same bits
        if len(values) == 1:
            raise bad(0, repr(values[0]), wanted) from None
    for at, value in enumerate(values):
        try:
            _arrow([value], wanted)
        except RowError as error:
            raise RowError(error.message, at) from None
    raise bad(0, repr(values[0]), wanted)  # lists of several types


def distinct(strings: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns the values that there are as large_binary, and which of them each string is: -1 for null."""
    coded = strings.cast(pa.large_binary()).dictionary_encode()
    texts, places = coded.dictionary, coded.indices.fill_null(-1).to_numpy()
    lengths = pc.binary_length(texts).to_numpy()
    if lengths.max(initial=0) > LONGEST:
        at = (places == lengths.argmax()).argmax()
        raise bad(at, f"a string of {lengths.max():,} bytes", f"an id of at most {LONGEST:,} bytes")
    return texts, places


def hash_values(array: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of strings by their UTF-8 bytes, and of integers by their eight: [n] uint64."""
    if kind_of(array.type) != "string":
        return hash_words([integers(array)], seed)
    texts, places = distinct(array)
    return np.append(hash_texts(texts, seed), np.uint64(0))[places]


class Rows:
    """Rows are read by column: `get` returns Python values in a list, an Arrow array, or None for no column."""

    def __init__(self, count: int, whole: Callable[[str], Any], start: int = 0) -> None:
        self.count, self._whole, self._start = count, whole, start

    @classmethod
    def of(cls, rows: Any, known: Collection[str]) -> "Rows":
        """Takes rows in any of their forms. Raises RowError for another one, and for rows with no column that is known.

        Else a misspelt column that may be missing would be scored as missing.
        """
        if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
            for at, row in enumerate(rows):
                if row.keys().isdisjoint(known):
                    _check_known(row, known, at)
            return cls(len(rows), cache(partial(_values, rows)))
        if isinstance(rows, pa.Table | pa.RecordBatch):
            names, count = rows.column_names, rows.num_rows
            _check_known(names, known)
            if twice := [name for name in known if names.count(name) > 1]:
                raise RowError(f"the column {twice[0]!r} is there {names.count(twice[0])} times")
            rows = dict(zip(names, rows.columns, strict=True))
        elif isinstance(rows, Mapping) or hasattr(rows, "iloc"):  # a pandas.DataFrame
            _check_known(rows.keys(), known)
            rows = {name: _column(name, rows[name]) for name in known if name in rows}
            lengths = {name: len(values) for name, values in rows.items()}
            count = max(lengths.values(), default=0)
            if any(length != count for length in lengths.values()):
                raise RowError(f"columns are not equally long: {lengths}")
        else:
            raise RowError("rows are a pyarrow.Table, a pandas.DataFrame, a dict of columns, or a list of dicts")
        return cls(count, rows.get)

    def get(self, name: str) -> Any:
        """Returns the values of a column."""
        values = self._whole(name)
        if values is None or (isinstance(values, list) and len(values) == self.count):
            return values
        if isinstance(values, list):
            return values[self._start : self._start + self.count]
        part = values.slice(self._start, self.count)
        return part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part

    def block(self, start: int) -> "Rows":
        """Returns rows from `start` on, as many as are scored at once."""
        return Rows(min(BLOCK_ROWS, self.count - start), self._whole, start)

    def beside(self, context: "Rows") -> "Rows":
        """Returns these rows with the columns that they lack, in which each is as the one row of `context`."""

        def whole(name: str) -> Any:
            values, one = self._whole(name), context.get(name)
            if values is not None or one is None:
                return values
            return (one.to_pylist() if isinstance(one, pa.Array) else one) * self.count

        return Rows(self.count, cache(whole))


def _check_known(names: Collection[Any], known: Collection[str], row: int | None = None) -> None:
    if known and not any(name in names for name in known):
        found = f"found the columns {_listed(names)}" if len(names) else "found no columns"
        raise RowError(f"{found}, expected some of {_listed(known)}", row)


def _listed(names: Collection[Any]) -> str:
    shown = ", ".join(repr(str(name)[:40]) for name in list(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED:,} more" if len(names) > NAMED else shown


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    return [row.get(name) for row in rows] if any(name in row for row in rows) else None


def _column(name: str, values: Any) -> Any:
    """Returns a column as a list or of Arrow. Raises RowError for what is neither, nor of NumPy or pandas."""
    if hasattr(values, "tolist"):
        try:
            values = pa.array(values, from_pandas=True)
        except REFUSED:
            values = values.tolist()
    values = list(values) if isinstance(values, tuple) else values
    if not isinstance(values, list | pa.Array | pa.ChunkedArray):
        raise RowError(f"column {name!r}: found a {type(values).__name__}, expected a list of values")
    return values
