"""A vocabulary file is opened for lookups: it gives a value its table row.

Distinct values are looked up by binary search over sorted 64-bit keys (the integer itself, or a string's XXH64), and
strings are compared afterwards, so that a lookup is exact and costs nothing per repetition of a value.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import LongStringError, hash_strings, is_string
from shardrec.data_pipeline.features.id_transforms import Vocabulary
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE, read_checked

VALUE = "value"  # the one column of a vocabulary file
_BYTES_A_VALUE = 32  # at least, while a lookup is made: value, key, sorted key, order


def kept_values(folder: str | Path, path: str) -> pa.ChunkedArray | None:
    """Returns a vocabulary file's values in the order of their rows; None where there is no such file.

    Strings are large ones, whatever the file has.
    """
    try:
        values = read_checked(f"{str(folder).rstrip('/')}/{path}", [VALUE]).column(VALUE)
    except (*UNREADABLE, KeyError):
        return None
    return values.cast(pa.large_string() if is_string(values.type) else pa.int64())


def check_vocabularies(features: Iterable[Any], folder: str | Path) -> None:
    """Raises UserError for a vocabulary of some features that is missing or of another size; reads footers alone."""
    for feature in features:
        ids = getattr(feature, "ids", None)
        if isinstance(ids, Vocabulary):
            _check_footer(f"{str(folder).rstrip('/')}/{ids.path}", ids.size)
        check_vocabularies(getattr(ids, "features", ()), folder)


def _check_footer(source: str, size: int) -> None:
    try:
        footer = pq.read_metadata(source)
    except UNREADABLE as error:
        raise _unreadable(source, error) from None
    _check_file(source, footer.num_rows, footer.schema.names, size)


def _unreadable(source: str, error: Exception) -> UserError:
    problem = "no such vocabulary file" if isinstance(error, FileNotFoundError) else f"unreadable: {error}"
    return UserError(f"{source}: {' '.join(problem.split())}; run `shardrec prepare` again")


def _check_file(source: str, rows: int, columns: list[str], size: int) -> None:
    if VALUE not in columns or rows != size:
        raise UserError(
            f"{source}: found {rows} rows with columns {', '.join(columns)}; the schema expects "
            f"{size} rows with a column {VALUE!r}; keep schema.yaml and vocabularies/ of one preparation together"
        )


class Lookup:
    """A lookup holds values in the order of their rows: the i-th has row i + 1, anything else row 0."""

    def __init__(self, values: pa.Array, source: str = "vocabulary") -> None:
        """Sorts the values' keys.

        values: integers or strings, not null
        source: names them in errors

        Raises UserError for a value that is repeated.
        """
        self.strings = is_string(values.type)
        self._values = values.cast(pa.large_binary()) if self.strings else None
        keys = self._keys(values)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            raise UserError(f"{source}: value {values[int(self._order[twice[0]])].as_py()!r} is there twice")

    def __len__(self) -> int:
        return len(self._sorted)

    @classmethod
    def open(cls, folder: str | Path, path: str, size: int) -> "Lookup":
        """Reads the file `path` under `folder`. Raises UserError where it is missing, damaged or of another size."""
        source = f"{str(folder).rstrip('/')}/{path}"
        _check_footer(source, size)
        if size * _BYTES_A_VALUE > psutil.virtual_memory().available:
            raise UserError(
                f"{source}: {size:,} values need {_BYTES_A_VALUE} bytes each, more than there is memory for"
            )
        try:
            values = read_checked(source, [VALUE]).column(VALUE)
        except UNREADABLE as error:
            raise _unreadable(source, error) from None
        if is_string(values.type):
            values = values.cast(pa.large_string())  # of which more than 2 GiB fit together
        values = values.combine_chunks()
        if values.null_count or not (is_string(values.type) or pa.types.is_integer(values.type)):
            raise UserError(
                f"{source}: column {VALUE!r} is {values.type} with {values.null_count} nulls; "
                "expected strings or integers without nulls"
            )
        try:
            return cls(values, source)
        except LongStringError as error:
            raise UserError(f"{source}: {error}") from None

    def rows(self, distinct: pa.Array) -> np.ndarray:
        """Returns the table rows of distinct values, [n] -> [n] int64; that of a null may be any.

        distinct: strings if the vocabulary's values are
        """
        if len(self) == 0:
            return np.zeros(len(distinct), np.int64)
        keys = self._keys(distinct)
        place = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        known = self._sorted[place] == keys
        index = self._order[place]
        if self._values is not None:
            same = pc.equal(self._values.take(pa.array(index)), distinct.cast(pa.large_binary()))
            known &= same.fill_null(False).to_numpy(zero_copy_only=False)
        return np.where(known, index + 1, 0)

    def _keys(self, values: pa.Array) -> np.ndarray:
        if self.strings:
            return hash_strings(values)
        if values.null_count:
            values = values.fill_null(0)
        return values.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
