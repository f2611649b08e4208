"""Slices are rows with one value of a feature, or with a range of values.

An id feature's slices are its commonest values and all others; a number's are ranges of about equally many rows; those
of lists and sequences are ranges of lengths.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MOST_VALUES = 12
RANGES = 8
LENGTHS = (0, 1, 2, 3, 6, 11, 21, 51)
"""Where ranges of lengths begin."""

Array = NDArray[Any]
Names = Callable[[int], str]
"""Says what a table row that a column holds stands for."""


class Slice(NamedTuple):
    """A slice has a name and the rows that are in it, [rows] bool."""

    name: str
    rows: Array


def slices_of(column: pa.ChunkedArray, *, ranges: bool, names: Names | None = None) -> Iterator[Slice]:
    """Yields a column's slices. ranges: of its numbers, instead of single values; names: as `by_value`."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return by_length(column)
    return by_range(numbers_of(column)) if ranges else by_value(column, names)


def numbers_of(column: pa.ChunkedArray) -> Array:
    """Returns a column as float64, NaN where it is null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: Array = pc.fill_null(column.cast(pa.float64(), safe=False), math.nan).to_numpy()
    return values


def by_value(column: pa.ChunkedArray, names: Names | None = None) -> Iterator[Slice]:
    """Yields the commonest values, the rows of all others together, and those without one."""
    whole = column.combine_chunks()
    counts = sorted(whole.drop_null().value_counts().to_pylist(), key=lambda of: (-of["counts"], str(of["values"])))
    taken = counts if len(counts) <= MOST_VALUES + 1 else counts[:MOST_VALUES]
    rest = np.ones(len(whole), bool)
    for of in taken:
        rows = _where(whole, of["values"])
        rest &= ~rows
        yield Slice(_raw(of["values"], names), rows)
    missing: Array = whole.is_null().to_numpy(zero_copy_only=False)
    if (rest & ~missing).any():
        yield Slice(f"{len(counts) - len(taken):,} other values", rest & ~missing)
    if missing.any():
        yield Slice("missing", missing)


def _where(column: pa.Array, value: Any) -> Array:
    mask: Array = pc.fill_null(pc.equal(column, pa.scalar(value, column.type)), False).to_numpy(zero_copy_only=False)
    return mask


def _raw(value: Any, names: Names | None) -> str:
    return str(value) if names is None or not isinstance(value, int) else names(value)


def names_of_values(values: Sequence[Any]) -> Names:
    """Returns the names of a vocabulary's rows: 0 is that of unknown values, one beyond that of missing ones."""
    return lambda row: "unknown" if row == 0 else str(values[row - 1]) if row <= len(values) else "missing"


def names_of_buckets(boundaries: Sequence[float]) -> Names:
    """Returns the names of buckets: their ranges; one beyond is that of missing values."""

    def name(row: int) -> str:
        if row > len(boundaries):
            return "missing"
        if row == 0:
            return f"below {boundaries[0]:g}"
        low = f"{boundaries[row - 1]:g}"
        return f"{low} to below {boundaries[row]:g}" if row < len(boundaries) else f"from {low}"

    return name


def by_range(values: Array) -> Iterator[Slice]:
    """Yields ranges with about equally many of the numbers, and the rows without one (NaN)."""
    known = values[~np.isnan(values)]
    if len(known):
        edges = np.unique(np.quantile(known, np.linspace(0, 1, RANGES + 1), method="lower"))
        for i, low in enumerate(edges[:-1] if len(edges) > 1 else edges):
            last = i >= len(edges) - 2
            high = edges[min(i + 1, len(edges) - 1)]
            rows = (values >= low) & ((values <= high) if last else (values < high))
            yield Slice(f"{low:.4g}" if low == high else f"{low:.4g} to {'' if last else 'below '}{high:.4g}", rows)
    if len(known) < len(values):
        yield Slice("missing", np.isnan(values))


def by_length(column: pa.ChunkedArray) -> Iterator[Slice]:
    """Yields ranges of lists' lengths that some rows have; null is the empty list."""
    lengths: Array = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    for low, end in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        last = int(lengths.max(initial=0)) if end is None else end - 1
        rows = (lengths >= low) & (lengths <= last)
        if rows.any():
            yield Slice(f"length {low}" if last == low else f"length {low} to {last}", rows)
