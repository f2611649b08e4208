"""Combinations of several lists take one element of each, for all rows at once, without Python per row."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_COMBINATIONS = 1000
"""Combinations of a row, at most, where nothing says how many are kept."""


class Combinations(NamedTuple):
    """Combinations of n rows are in the order of nested loops, the last list's elements going fastest.

    lengths: [n] int64, how many each row has, none where a list is empty; T in all
    places: for each list, [T] int64: which of its flat elements each combination takes
    """

    lengths: np.ndarray
    places: tuple[np.ndarray, ...]

    def row_of(self, at: int) -> int:
        """Returns the row that combination `at` belongs to."""
        return int(np.searchsorted(np.cumsum(self.lengths), at, side="right"))


def combination_counts(lengths: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Returns how many combinations each row has, `most` where there are more: k arrays [n] int64 -> [n] int64."""
    counts = np.ones(len(lengths[0]), np.int64)
    for of_list in lengths:
        counts = np.minimum(counts * of_list, most)  # no overflow: `most` and lengths are below 2^31
    return counts


def last_combinations(lengths: Sequence[np.ndarray], most: int) -> Combinations:
    """Returns the last `most` combinations of each row: k arrays [n] int64 of lengths, those of one list each.

    What is not kept is not made, however many there would be.
    """
    kept = combination_counts(lengths, most)
    ends = np.cumsum(kept)
    from_end = np.repeat(ends, kept) - np.arange(1, kept.sum() + 1)  # 0 is a row's last combination
    places = []
    for of_list in reversed(lengths):
        its_length, its_end = np.repeat(of_list, kept), np.repeat(np.cumsum(of_list), kept)
        places.append(its_end - 1 - from_end % its_length)
        from_end //= its_length
    return Combinations(kept, tuple(reversed(places)))
