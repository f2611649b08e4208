"""What all ranks ask for becomes the ids of one kernel: feature by feature, of each the bags of all ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.sharding.exchange.id_layout import IdLayout, Wanted
from shardrec.sharding.exchange.ids import ReceivedIds
from shardrec.sharding.exchange.own_ids import Ragged
from shardrec.sharding.exchange.slots import KernelSlots, Slot


class KernelIds(NamedTuple):
    """Kernel ids are values [T] and offsets [slots x bags + 1], with weights [T] where the kernel needs them."""

    values: Tensor
    offsets: Tensor
    weights: Tensor | None


class KernelInput:
    """A kernel's input is made of what was received; what depends on its slots alone is kept."""

    def __init__(self, kernel: KernelSlots, layout: IdLayout, device: torch.device) -> None:
        self.kernel = kernel
        rows = [layout.narrow_row(slot) for slot in kernel.slots]
        self._rows = rows
        self._narrow: Tensor | slice | None = None
        if None not in rows:
            first = rows[0] or 0
            follow = rows == list(range(first, first + len(rows)))
            self._narrow = slice(first, first + len(rows)) if follow else torch.tensor(rows, device=device)
        blocks = [(s.row, torch.iinfo(torch.int64).max if s.is_last else s.row + s.block) for s in kernel.slots]
        self._first, self._end = (torch.tensor(ends, device=device).unsqueeze(1) for ends in zip(*blocks, strict=True))
        self._offsets: Tensor | None = None

    def of(self, received: ReceivedIds) -> KernelIds:
        """Returns what the kernel looks up."""
        if self._narrow is None:
            return self._of_pieces(received)
        ids = received.narrow[self._narrow]
        if received.full and not self.kernel.by_rows:
            count = ids.numel()
            if self._offsets is None or self._offsets.numel() != count + 1:
                self._offsets = torch.arange(count + 1, device=ids.device)
            return KernelIds(ids.reshape(-1), self._offsets, self._ones(count, ids))
        there = (ids >= self._first) & (ids < self._end) if self.kernel.by_rows else ids >= 0
        values = (ids - self._first if self.kernel.by_rows else ids)[there]
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(there.flatten().long())
        return KernelIds(values, offsets, self._ones(values.numel(), values))

    def _ones(self, count: int, like: Tensor) -> Tensor | None:
        return torch.ones(count, device=like.device) if self.kernel.weighted else None

    def _of_pieces(self, received: ReceivedIds) -> KernelIds:
        """Returns what a kernel looks up of which some features are ragged."""
        slots = self.kernel.slots
        pieces = [self._piece(i, slot, received) for i, slot in enumerate(slots)]
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.cat([piece.lengths for piece in pieces]))
        values, weights = torch.cat([piece.values for piece in pieces]), None
        if self.kernel.weighted:
            ones = values.new_ones((), dtype=torch.float32)
            weights = torch.cat([ones.expand(len(p.values)) if p.weights is None else p.weights for p in pieces])
        return KernelIds(values, offsets, weights)

    def _piece(self, place: int, slot: Slot, received: ReceivedIds) -> Ragged:
        row = self._rows[place]
        if row is None:
            return received.ragged[Wanted(slot.feature, slot.block)]
        ids = received.narrow[row]
        there = ids >= 0
        if slot.block:
            there, ids = (ids >= self._first[place]) & (ids < self._end[place]), ids - self._first[place]
        return Ragged(there.long(), ids[there], None)
