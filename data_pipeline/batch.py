"""A batch carries rows from the loader to the tower: it holds tensors, and moves between devices as one object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # they take seconds, and neither a model's settings nor a process that only reads needs a batch
    import numpy as np
    import torch
    from torch import Tensor
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(eq=False)
class Alternatives:
    """Alternatives are the items that each of a batch's rows is told from, for tasks that learn to retrieve.

    items: [P] int64, which item each of the batch's first P rows is of, -1 for padding; ids of one feature, whatever
        rows their tables give them
    log_q: [P] float32, the log of how often a row's item is expected among the items that rows share
    shared, shared_log_q: [C], likewise of the batch's last C rows, from P on: this rank's part of the items that are
        drawn for all rows, padding to all but their tower
    in_batch: whether the items of all ranks' first P rows are shared too
    per_row: negatives of each row's own. The first P rows are then the rows that have some, none of them padding, and
        rows n P .. (n + 1) P have the n-th negative of each
    dealt: whether ranks hold a part each of the shared items, and not all of them
    """

    items: "Tensor"
    log_q: "Tensor"
    shared: "Tensor"
    shared_log_q: "Tensor"
    in_batch: bool = False
    per_row: int = 0
    dealt: bool = True

    @classmethod
    def own(cls, rows: int, per_row: int) -> "Alternatives":
        """Returns those of rows that have negatives of their own only, in rows behind them."""
        import torch

        none, no_rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return cls(torch.zeros(rows, dtype=torch.int64), torch.zeros(rows), none, no_rows, per_row=per_row)

    def tensors(self) -> "dict[str, Tensor]":
        """Returns the tensors by name."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in named if not isinstance(value, bool | int)}

    def mapped(self, move: "Callable[[Tensor], Tensor]") -> "Alternatives":
        """Returns the alternatives with all tensors moved."""
        moved: dict[str, Any] = {name: move(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **moved)


@dataclass(eq=False)
class Batch:
    """A batch holds B rows of one rank. Padding rows have no ids, weight 0 and row -1, and count nowhere.

    dense: [B, N] float32, columns in the order of the loader's `dense_names`
    ids: the features without weights; int64 values, int64 lengths; keys in the loader's `id_names` order
    weighted_ids: the features with weights (a KeyedJaggedTensor carries weights for all its keys or for none)
    labels: name -> [B] float32
    weights: [B] float32 sample weights
    groups: [B] int64 (strings hashed), or None
    rows: [B] int64, a row's place in its data set (files in order, rows in order)
    dense_sequences: name -> [T] float32, row after row beside the ids of the sequences that it is aligned with
    alternatives: what rows are told from, where a task asks for it; the last rows may then be of drawn items
    host_lengths: feature -> [B] int64, how many ids each row has, where that is known without waiting for a device: of
        whatever device the tensors are, these arrays are on the host
    """

    dense: "Tensor"
    ids: "KeyedJaggedTensor"
    weighted_ids: "KeyedJaggedTensor | None"
    labels: "dict[str, Tensor]"
    weights: "Tensor"
    groups: "Tensor | None"
    rows: "Tensor"
    dense_sequences: "dict[str, Tensor]" = field(default_factory=dict)
    alternatives: Alternatives | None = None
    host_lengths: "Mapping[str, np.ndarray]" = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Returns B, padding included."""
        return self.weights.numel()

    @property
    def live(self) -> "Tensor":
        """Returns [B] bool: which rows are not padding."""
        return self.rows >= 0

    def _map(self, move: Any) -> "Batch":
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "host_lengths":
                continue
            if isinstance(value, dict):
                value = {k: move(v) for k, v in value.items()}
            elif isinstance(value, Alternatives):
                value = value.mapped(move)
            elif value is not None:
                value = move(value)
            moved[f.name] = value
        return replace(self, **moved)

    def to(self, device: "torch.device", non_blocking: bool = False) -> "Batch":
        """Returns the batch on `device`; itself, where that is a CPU and it is there."""
        if device.type == self.weights.device.type == "cpu":
            return self
        return self._map(lambda t: t.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Returns the batch in page-locked memory, from which copies to a GPU need not wait."""
        return self._map(lambda t: t.pin_memory())

    def record_stream(self, stream: "torch.Stream") -> None:
        """Keeps the tensors' memory from being used again before `stream` has come this far."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "host_lengths":
                continue
            if isinstance(value, Alternatives):
                value = value.tensors()
            for t in value.values() if isinstance(value, dict) else (value,):
                if t is not None:
                    t.record_stream(stream)
