"""Rows that are to lie in order of time are checked to do so, while they are read."""

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import (
    Origin,
    Place,
    column_type,
    expect_type,
    floats,
    integers,
    missing_values,
    plain_type,
)

_NANOSECONDS = {"day": 86_400 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class TimeOrder:
    """A time order compares each row's time with that of the row before it in the data set.

    It remembers the last row of the chunk before. A chunk that does not follow that one (an epoch began, or was taken
    up) is checked from its second row on. remedy: what an error line tells to do about a row that is too early.
    """

    def __init__(self, column: str, remedy: str) -> None:
        self.columns: tuple[str, ...] = (column,)
        self._remedy = remedy
        self._kind: tuple[bool, pa.DataType, str] | None = None
        self._before: tuple[int, int | float, str] | None = None  # place of the row after it, its time, as it is shown

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column, one of another type than times have, and files that differ in it."""
        (column,) = self.columns
        kind = column_type(schema, file, column, "the time")
        plain, types = plain_type(kind), pa.types
        number = types.is_integer(plain) or types.is_floating(plain)
        right = number or types.is_timestamp(plain) or types.is_date(plain)
        expect_type(right, file, column, kind, "integers, floats, dates or timestamps", "the time")
        first = self._kind = self._kind or (number, kind, file)
        if number != first[0]:
            raise UserError(
                f"{file}: column {column!r} is {kind}, but {first[1]} in {first[2]}, and times of both do not compare; "
                "write one of them again"
            )

    def __call__(self, batch: pa.RecordBatch, origin: Origin, place: int) -> None:
        """Checks rows that begin at `place` of the data set.

        Raises UserError (file, row, column, found, expected) for a null, and for a time before that of the row before.
        """
        times = batch.column(self.columns[0])
        if not len(times):
            return
        if pa.types.is_dictionary(times.type):
            times = times.dictionary_decode()
        where = Place(origin, self.columns[0])
        if (missing := missing_values(times)) is not None:
            raise where.error(missing.argmax(), "null", "a time")
        numbers, unit = _numbers(times)
        known = self._before
        if known is not None and known[0] == place and numbers[0].item() * unit < known[1]:
            raise where.error(0, _shown(times, 0), self._expected(known[2]))
        wrong = np.flatnonzero(numbers[1:] < numbers[:-1])
        if len(wrong):
            at = int(wrong[0])
            raise where.error(at + 1, _shown(times, at + 1), self._expected(_shown(times, at)))
        self._before = place + len(numbers), numbers[-1].item() * unit, _shown(times, len(times) - 1)

    def _expected(self, before: str) -> str:
        return f"{before} or later, as the row before has; {self._remedy}"


def _shown(times: pa.Array, at: int) -> str:
    """Returns a time in writing, by Arrow: Python has no years over 9999, and no nanoseconds without pandas."""
    if pa.types.is_temporal(times.type):
        return str(times.slice(at, 1).cast(pa.string())[0])
    return str(times[at])


def _numbers(times: pa.Array) -> tuple[np.ndarray, int]:
    """Returns times as [n] numbers, and what one is in nanoseconds; 1 of those that are plain numbers."""
    if pa.types.is_integer(times.type):
        return integers(times), 1
    if pa.types.is_floating(times.type):
        return floats(times), 1
    if pa.types.is_date32(times.type):
        return integers(times.cast(pa.int32())), _NANOSECONDS["day"]
    unit = "ms" if pa.types.is_date64(times.type) else times.type.unit
    return integers(times.cast(pa.int64())), _NANOSECONDS[unit]
