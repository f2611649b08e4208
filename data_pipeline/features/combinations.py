"""Combinations of several lists take one element of each, for all rows at once, without Python per row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST_COMBINATIONS = 1000
"""Combinations of a row, at most, where nothing says how many are kept."""

_PIECE = 1 << 17  # combinations that are in work at once: what is made of them on the way stays near the cache


@dataclass(frozen=True)
class Combinations:
    """Combinations are the last `most` of each row, in the order of nested loops, the last list's elements fastest.

    What is not kept is not made, however many there would be.

    of_lists: for each list, [n] int64, how many elements each row has; a row in which one is empty has no combination
    """

    of_lists: Sequence[np.ndarray]
    most: int

    @cached_property
    def lengths(self) -> np.ndarray:
        """Returns [n] int64: how many of each row are kept."""
        counts = np.ones(len(self.of_lists[0]), np.int64)
        for of_list in self.of_lists:
            counts = np.minimum(counts * of_list, self.most)  # no overflow: `most` and lengths are below 2^31
        return counts

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.lengths)

    @property
    def total(self) -> int:
        """Returns how many there are in all rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows_of(self, piece: slice) -> Callable[[int], int]:
        """Returns what tells the row that a combination of a piece belongs to, by its place there."""
        return lambda at: int(np.searchsorted(self._ends, piece.start + at, side="right"))

    def pieces(self) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Yields all combinations by some rows at a time: which, and for each list the place of its flat element."""
        first = 0
        while first < len(self._ends):
            start = int(self._ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(self._ends, start + _PIECE, side="right")))
            yield slice(start, int(self._ends[last - 1])), self._places(slice(first, last))
            first = last

    def _places(self, rows: slice) -> list[np.ndarray]:
        kept = self.lengths[rows]
        ends = np.cumsum(kept)
        from_end = np.repeat(ends, kept) - np.arange(1, int(ends[-1]) + 1)  # 0 is a row's last combination
        places = []
        for of_list, its_ends in reversed(list(zip(self.of_lists, self._list_ends, strict=True))):
            its_length = np.repeat(of_list[rows], kept)
            places.append(np.repeat(its_ends[rows] - 1, kept) - from_end % its_length)
            from_end //= its_length
        return places[::-1]

    @cached_property
    def _list_ends(self) -> list[np.ndarray]:
        return [np.cumsum(of_list) for of_list in self.of_lists]
