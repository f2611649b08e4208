"""A batch carries rows from the loader to the tower: it holds tensors only and moves between devices as one object."""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # importing it takes longer than torch, and who only asks for a model's settings needs no batch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


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
    """

    dense: Tensor
    ids: "KeyedJaggedTensor"
    weighted_ids: "KeyedJaggedTensor | None"
    labels: dict[str, Tensor]
    weights: Tensor
    groups: Tensor | None
    rows: Tensor
    dense_sequences: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Returns B, padding included."""
        return self.weights.numel()

    @property
    def live(self) -> Tensor:
        """Returns [B] bool: which rows are not padding."""
        return self.rows >= 0

    def _map(self, move: Any) -> "Batch":
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                value = {k: move(v) for k, v in value.items()}
            elif value is not None:
                value = move(value)
            moved[f.name] = value
        return replace(self, **moved)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Returns the batch on `device`."""
        return self._map(lambda t: t.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Returns the batch in page-locked memory, from which copies to a GPU need not wait."""
        return self._map(lambda t: t.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the tensors' memory from being used again before `stream` has come this far."""
        for f in fields(self):
            value = getattr(self, f.name)
            for t in value.values() if isinstance(value, dict) else (value,):
                if t is not None:
                    t.record_stream(stream)
