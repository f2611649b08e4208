"""An Arrow list array's rows are found by where each one's elements lie among the flat values."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.features.arrow_values import as_type, is_list_view


def plain_lists(lists: pa.Array) -> pa.Array:
    """Returns lists in a form that `Ragged` knows: a column of nulls has empty ones."""
    return as_type(lists, pa.list_(pa.int64()))


class Ragged(NamedTuple):
    """Ragged rows are [n] int64 starts and lengths: which of a list array's flat values belong to each row."""

    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, lists: pa.Array) -> "Ragged":
        """Returns the rows of an array of lists of any kind, sliced or not; null is the empty list."""
        if pa.types.is_fixed_size_list(lists.type):
            size = lists.type.list_size
            starts = (lists.offset + np.arange(len(lists), dtype=np.int64)) * size
            lengths = np.full(len(lists), size, np.int64)
        elif is_list_view(lists.type):  # Arrow's cast to lists gives lengths that are wrong where a row is null
            starts, lengths = (x.to_numpy().astype(np.int64) for x in (lists.offsets, lists.sizes))
        else:
            offsets = lists.offsets.to_numpy().astype(np.int64)
            starts, lengths = offsets[:-1], np.diff(offsets)
        if lists.null_count:  # a null may hide elements
            lengths = np.where(lists.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
        return cls(starts, lengths)

    def last(self, most: int | None) -> "Ragged":
        """Returns the last `most` elements of each row."""
        if most is None or not len(self.lengths) or int(self.lengths.max()) <= most:
            return self
        kept = np.minimum(self.lengths, most)
        return Ragged(self.starts + self.lengths - kept, kept)

    def flat(self, values: pa.Array) -> pa.Array:
        """Returns the elements of all rows, one row after another."""
        total = int(self.lengths.sum())
        if total == 0:
            return values.slice(0, 0)
        ends = np.cumsum(self.lengths)
        shift = self.starts - (ends - self.lengths)  # of each row's elements, from here to `values`
        used = shift[self.lengths > 0]
        if (used == used[0]).all():
            return values.slice(int(used[0]), total)
        return values.take(pa.array(np.arange(total) + np.repeat(shift, self.lengths)))

    def row_of(self, at: int) -> int:
        """Returns the row that owns the element at index `at` of `flat`."""
        return int(np.searchsorted(np.cumsum(self.lengths), at, side="right"))
