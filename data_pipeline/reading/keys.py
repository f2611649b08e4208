"""Keys of a batch are filled with the ids of blocks, run by run: no key is concatenated by itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardrec.data_pipeline.reading.blocks import Block

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class Run(NamedTuple):
    """A run is keys that lie side by side in a block.

    They are rows first .. last of its `ids` (where `lists` is None) or of `lists[lists]`.
    """

    lists: int | None
    first: int
    last: int

    def values(self, block: Block) -> np.ndarray:
        """Returns [keys, values of one key]."""
        return (block.ids if self.lists is None else block.lists[self.lists].owned)[self.first : self.last]

    def lengths(self, block: Block) -> np.ndarray:
        """Returns [rows] int64, the same for each of the keys."""
        return np.ones(block.rows, np.int64) if self.lists is None else block.lists[self.lists].lengths

    def weights(self, block: Block) -> np.ndarray:
        """Returns [values of one key] float32."""
        assert self.lists is not None
        return block.lists[self.lists].owned_weights


class AbsentRun(Run):
    """An absent run is of a key without ids in any row."""

    def values(self, block: Block) -> np.ndarray:
        """Returns no values."""
        return np.empty((1, 0), np.int64)

    def lengths(self, block: Block) -> np.ndarray:
        """Returns a length of 0 for each row."""
        return np.zeros(block.rows, np.int64)

    def weights(self, block: Block) -> np.ndarray:
        """Returns no weights."""
        return np.empty(0, np.float32)


class Keys:
    """These keys make one KeyedJaggedTensor."""

    def __init__(self, names: Sequence[str], runs: Sequence[Run], *, weighted: bool) -> None:
        self.names = tuple(names)
        self._runs = runs
        self._weighted = weighted
        self._ones: dict[int, np.ndarray] = {}

    def collate(self, parts: Sequence[Block], size: int) -> "tuple[KeyedJaggedTensor, dict[str, np.ndarray]]":
        """Returns the ids of all parts' rows, then rows without ids up to `size`, and of each key its rows' lengths."""
        import torch  # readers that are processes of their own make no batches
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        values_by_run = [[run.values(p) for p in parts] for run in self._runs]
        per_key = [sum(v.shape[1] for v in values) for values in values_by_run]
        keys = [run.last - run.first for run in self._runs]
        values = np.empty(sum(n * k for n, k in zip(per_key, keys, strict=True)), np.int64)
        at = 0
        for run_values, count, of_run in zip(values_by_run, per_key, keys, strict=True):
            stop = at + count * of_run
            if parts:
                np.concatenate(run_values, axis=1, out=values[at:stop].reshape(of_run, count))
            at = stop
        lengths = self._lengths(parts, size)
        ids = KeyedJaggedTensor(
            keys=list(self.names),
            values=torch.from_numpy(values),
            weights=torch.from_numpy(self._weights(parts)) if self._weighted else None,
            lengths=torch.from_numpy(lengths).flatten(),
            stride=size,
            length_per_key=[n for n, k in zip(per_key, keys, strict=True) for _ in range(k)],
        )
        return ids, dict(zip(self.names, lengths, strict=True))

    def _weights(self, parts: Sequence[Block]) -> np.ndarray:
        weights = [run.weights(p) for run in self._runs for p in parts]
        return np.concatenate(weights) if weights else np.zeros(0, np.float32)

    def _lengths(self, parts: Sequence[Block], size: int) -> np.ndarray:
        """Returns [keys, size] int64."""
        live = sum(p.rows for p in parts)
        if live == size and all(run.lists is None for run in self._runs):
            if size not in self._ones:  # shared by all full batches: nobody changes lengths in place
                self._ones = {size: np.ones((len(self.names), size), np.int64)}
            return self._ones[size]
        lengths = np.zeros((len(self.names), size), np.int64)
        key = 0
        for run in self._runs:
            if parts:
                lengths[key : key + run.last - run.first, :live] = np.concatenate([run.lengths(p) for p in parts])
            key += run.last - run.first
        return lengths


def with_rows(ids: "KeyedJaggedTensor", more: "KeyedJaggedTensor") -> "KeyedJaggedTensor":
    """Returns the rows of `ids`, then those of `more`, which has the same keys in the same order."""
    import torch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    counts = ids.length_per_key(), more.length_per_key()
    parts = tuple(kjt.values().split(n) for kjt, n in zip((ids, more), counts, strict=True))
    weights = None
    if ids.weights_or_none() is not None:
        of_both = tuple(kjt.weights().split(n) for kjt, n in zip((ids, more), counts, strict=True))
        weights = torch.cat([part for pair in zip(*of_both, strict=True) for part in pair])
    lengths = [kjt.lengths().view(len(kjt.keys()), kjt.stride()) for kjt in (ids, more)]
    return KeyedJaggedTensor(
        keys=ids.keys(),
        values=torch.cat([part for pair in zip(*parts, strict=True) for part in pair]),
        weights=weights,
        lengths=torch.cat(lengths, 1).flatten(),
        stride=ids.stride() + more.stride(),
        length_per_key=[a + b for a, b in zip(*counts, strict=True)],
    )
