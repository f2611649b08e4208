"""Events say who did something with which item, in which order: rows with histories are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

HOURS = 24 * 7
_THURSDAY = 3  # 1970-01-01, counted from Monday


class Coded(NamedTuple):
    """Coded values are stored by their codes 0, 1, ...

    codes: [n] int32, -1 for what is missing
    values: what each code stands for
    """

    codes: np.ndarray
    values: pa.Array

    @classmethod
    def of(cls, chunks: Sequence[pa.Array]) -> "Coded":
        """Codes values in the order in which they first come; chunks hold integers or strings, or dictionaries."""
        encoded = [c if pa.types.is_dictionary(c.type) else c.dictionary_encode() for c in chunks]
        whole = pa.chunked_array(encoded).unify_dictionaries().combine_chunks()
        codes = whole.indices.fill_null(-1) if whole.indices.null_count else whole.indices
        return cls(codes.to_numpy().astype(np.int32, copy=False), whole.dictionary)


@dataclass(frozen=True, eq=False)
class Events:
    """Events are sorted by user, and those of a user from the oldest to the latest.

    source: what they were read from, for error lines
    users, items: of each event; categories: of each *item* (by its code), None: items have none
    seconds: [n] since 1970, UTC, of each event, None: times are not known
    """

    source: str
    users: Coded
    items: Coded
    categories: Coded | None = None
    seconds: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        source: str,
        users: Coded,
        items: Coded,
        seconds: np.ndarray | None = None,
        categories: Mapping[object, str] | None = None,
    ) -> "Events":
        """Sorts events; those of equal times, or without times, keep their order.

        seconds: [n] since 1970, UTC; categories: item -> category, items that it lacks have none. A category's
        surrogates that stand alone, which are no text, become U+FFFD.
        """
        keys = (users.codes,) if seconds is None else (seconds, users.codes)
        order = np.lexsort(keys)  # stable
        of_items = None
        if categories is not None:
            of_items = Coded.of([_texts([categories.get(i) for i in items.values.to_pylist()])])
        seconds = None if seconds is None else seconds[order]
        users, items = (coded._replace(codes=coded.codes[order]) for coded in (users, items))
        return cls(source, users, items, of_items, seconds)

    def __len__(self) -> int:
        return len(self.users.codes)

    @cached_property
    def hours(self) -> np.ndarray | None:
        """Returns [n] int32: the hour of the week of each event (0: Monday 0:00 to 0:59, UTC)."""
        return None if self.seconds is None else hour_of_week(self.seconds)

    @cached_property
    def counts(self) -> np.ndarray:
        """Returns [users] int64: how many events each user has."""
        return np.bincount(self.users.codes, minlength=len(self.users.values))

    @cached_property
    def starts(self) -> np.ndarray:
        """Returns [users] int64: the first event of each."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def repeated(self) -> np.ndarray:
        """Returns [events] bool: which have an item that their user had before."""
        pairs = self.users.codes.astype(np.int64) * len(self.items.values) + self.items.codes
        repeated = np.ones(len(self), bool)
        repeated[np.unique(pairs, return_index=True)[1]] = False
        return repeated

    def first_only(self) -> "Events":
        """Returns the events that are not `repeated`."""
        kept = ~self.repeated
        users, items = (coded._replace(codes=coded.codes[kept]) for coded in (self.users, self.items))
        seconds = None if self.seconds is None else self.seconds[kept]
        return replace(self, users=users, items=items, seconds=seconds)

    def __str__(self) -> str:
        return f"{len(self):,} events of {len(self.users.values):,} users and {len(self.items.values):,} items"


def _texts(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if value is None else _whole(value) for value in values], pa.string())


def _whole(text: str) -> str:
    """Returns text with its surrogates joined, and U+FFFD for those that stand alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def hour_of_week(seconds: np.ndarray) -> np.ndarray:
    """Returns [n] int32 hours since the last Monday 0:00 UTC, 0 .. 167, of [n] seconds since 1970-01-01 UTC."""
    return ((seconds // 3600 + 24 * _THURSDAY) % HOURS).astype(np.int32)
