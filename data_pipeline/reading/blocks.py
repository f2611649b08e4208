"""A block holds some rows of a data set as a few NumPy arrays, cheap to slice, to permute and to join.

One-valued features of all tables share one [F, n] array and all numbers one [n, C] array, so that shuffling a window
or making a batch is a handful of NumPy calls, whatever the number of features. Features of equal lengths (aligned
sequences) share their offsets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Lists(NamedTuple):
    """Lists hold K features with equally many ids in each of n rows, and D with as many numbers.

    values: [K, T]; offsets: [n + 1] int64, row i owns values[:, offsets[i] : offsets[i + 1]] (the first offset may be
    over 0); weights: [T] float32 or None; numbers: [D, T] float32, or None without any
    """

    values: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None
    numbers: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Returns [n] int64: how many ids each row has."""
        return np.diff(self.offsets)

    @property
    def total(self) -> int:
        """Returns how many ids, or numbers, all rows have in one feature."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def owned(self) -> np.ndarray:
        """Returns [K, total]: the values of the rows, one row after another."""
        return self.values[:, self.offsets[0] : self.offsets[-1]]

    @property
    def owned_weights(self) -> np.ndarray:
        """Returns [total] float32: the weights beside `owned`, for features that have some."""
        assert self.weights is not None
        return self.weights[self.offsets[0] : self.offsets[-1]]

    @property
    def owned_numbers(self) -> np.ndarray:
        """Returns [D, total] float32: the numbers beside `owned`, for features that have some."""
        assert self.numbers is not None
        return self.numbers[:, self.offsets[0] : self.offsets[-1]]

    def take(self, rows: np.ndarray) -> "Lists":
        """Returns the given rows, in the given order."""
        starts = self.offsets[:-1]
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        places = np.repeat(starts[rows] - offsets[:-1], lengths)
        places += np.arange(len(places))
        return Lists(
            np.take(self.values, places, axis=1),
            offsets,
            None if self.weights is None else self.weights[places],
            None if self.numbers is None else np.take(self.numbers, places, axis=1),
        )

    @classmethod
    def join(cls, parts: "Sequence[Lists]") -> "Lists":
        """Returns the rows of all parts, one part after another."""
        return cls(
            np.concatenate([p.owned for p in parts], axis=1),
            offsets_of(np.concatenate([p.lengths for p in parts])),
            None if parts[0].weights is None else np.concatenate([p.owned_weights for p in parts]),
            None if parts[0].numbers is None else np.concatenate([p.owned_numbers for p in parts], axis=1),
        )


class Block(NamedTuple):
    """A block has n rows.

    ids: [F, n] int32 or int64, the features of one id a row
    lists: the features of many ids a row
    numbers: [n, C] float32: dense features, labels and the sample weight
    places: [1 or 2, n] int64: the row's place in its data set (-1: it is in a gap), and its group if there is one
    extra: further columns as they are in the files, maybe none
    """

    ids: np.ndarray
    lists: tuple[Lists, ...]
    numbers: np.ndarray
    places: np.ndarray
    extra: pa.Table

    @property
    def rows(self) -> int:
        """Returns n."""
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """Returns the memory of the arrays (of what they are views of, if they are the only views)."""
        total = self.ids.nbytes + self.numbers.nbytes + self.places.nbytes
        for lists in self.lists:
            total += lists.values.nbytes + lists.offsets.nbytes
            total += sum(beside.nbytes for beside in (lists.weights, lists.numbers) if beside is not None)
        return total + self.extra.nbytes

    def slice(self, start: int, stop: int) -> "Block":
        """Returns rows start .. stop, as views."""
        return Block(
            self.ids[:, start:stop],
            tuple(x._replace(offsets=x.offsets[start : stop + 1]) for x in self.lists),
            self.numbers[start:stop],
            self.places[:, start:stop],
            self.extra.slice(start, stop - start),
        )

    def take(self, rows: np.ndarray) -> "Block":
        """Returns the given rows, in the given order, as copies."""
        return Block(
            np.take(self.ids, rows, axis=1),
            tuple(x.take(rows) for x in self.lists),
            np.take(self.numbers, rows, axis=0),
            np.take(self.places, rows, axis=1),
            self.extra.take(pa.array(rows)),
        )

    def without_gaps(self) -> "Block":
        """Returns the rows that are at a place of the data set: all of them, as a rule."""
        there = self.places[0] >= 0
        return self if there.all() else self.take(np.flatnonzero(there))

    @classmethod
    def join(cls, parts: "Sequence[Block]") -> "Block":
        """Returns the rows of all parts, one part after another (a single part as it is)."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.ids for p in parts], axis=1),
            tuple(Lists.join(lists) for lists in zip(*(p.lists for p in parts), strict=True)),
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.places for p in parts], axis=1),
            join_tables([p.extra for p in parts]),
        )


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Returns the [n + 1] int64 offsets of [n] lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def join_tables(parts: Sequence[pa.Table]) -> pa.Table:
    """Returns the rows of all parts, one part after another; files may differ in whether a column can be null."""
    return pa.concat_tables(parts, promote_options="default")
