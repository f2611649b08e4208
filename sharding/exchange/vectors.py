"""Vectors go from the ranks that hold their rows to those that asked for them, and their gradients back.

All kernels' go in one message. Gradients are divided by the number of ranks, as the tower's are averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from shardrec.sharding.exchange.id_layout import Wanted
from shardrec.sharding.exchange.ids import ReceivedIds, Sending
from shardrec.sharding.exchange.own_ids import OwnIds
from shardrec.sharding.exchange.slots import KernelSlots, Slot
from shardrec.sharding.exchange.vector_layout import SequenceKey, VectorLayout


@dataclass(frozen=True)
class Numbers:
    """What vectors and gradients travel as; None: as they are."""

    vectors: torch.dtype | None = None
    gradients: torch.dtype | None = None


class VectorStep:
    """One step's vectors: how many go where. kernels: this rank's, pooled ones first."""

    def __init__(
        self,
        layout: VectorLayout,
        kernels: Sequence[KernelSlots],
        rank: int,
        own: OwnIds,
        received: ReceivedIds,
        numbers: Numbers,
        group: dist.ProcessGroup | None,
    ) -> None:
        self._layout, self._rank, self._own, self._received = layout, rank, own, received
        self._numbers, self._group = numbers, group
        self.ranks = layout.ranks
        self._pooled = [k for k in kernels if k.pooled]
        self._sequences = [k for k in kernels if not k.pooled]

    # ---------------------------------------------------------------- sizes

    @cached_property
    def _segments_out(self) -> list[list[int]]:
        """How many vectors of each of this rank's sequence slots go to each rank: [slots][ranks]."""
        return [self._received.counts[_wanted(slot)] for k in self._sequences for slot in k.slots]

    @cached_property
    def _segments_in(self) -> list[list[int]]:
        """How many vectors of each rank's sequence slots come from there: [ranks][slots]."""
        return [
            [self._own.counts[_wanted(slot)][rank] for slot in slots]
            for rank, slots in enumerate(self._layout.sequences)
        ]

    @cached_property
    def _sizes_out(self) -> list[int]:
        width = self._layout.widths[self._rank]
        sizes = [rows * width for rows in self._received.sizes]
        for slot, counts in zip(self._layout.sequences[self._rank], self._segments_out, strict=True):
            sizes = [size + count * slot.columns for size, count in zip(sizes, counts, strict=True)]
        return sizes

    @cached_property
    def _sizes_in(self) -> list[int]:
        return [sum(self._pieces_in(rank)) for rank in range(self._layout.ranks)]

    def _pieces_in(self, rank: int) -> list[int]:
        """Returns the sizes of the pieces of a rank's message: its block, then its segments."""
        slots, counts = self._layout.sequences[rank], self._segments_in[rank]
        return [
            self._own.rows * self._layout.widths[rank],
            *(count * slot.columns for slot, count in zip(slots, counts, strict=True)),
        ]

    # ---------------------------------------------------------------- kernels' outputs -> message, message -> gradients

    def message(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns what is sent, in order: kernels' outputs, [bags, columns] of pooled ones, then [ids, columns]."""
        pooled = outputs[: len(self._pooled)]
        joined = pooled[0] if len(pooled) == 1 else torch.cat(list(pooled), 1) if pooled else None
        if not self._sequences:
            return [joined] if joined is not None else [torch.empty(0)]
        blocks = joined.split(self._received.sizes) if joined is not None else ()
        segments: list[Sequence[Tensor]] = []
        at = 0
        for kernel, vectors in zip(self._sequences, outputs[len(self._pooled) :], strict=True):
            counts = [n for of_slot in self._segments_out[at : at + len(kernel.slots)] for n in of_slot]
            pieces = vectors.split(counts)
            segments += [pieces[i : i + self._layout.ranks] for i in range(0, len(pieces), self._layout.ranks)]
            at += len(kernel.slots)
        return [
            piece
            for rank in range(self._layout.ranks)
            for piece in (*blocks[rank : rank + 1], *(of_slot[rank] for of_slot in segments))
        ]

    def kernel_gradients(self, flat: Tensor) -> list[Tensor]:
        """Returns the gradients of the kernels' outputs, from all ranks' messages."""
        widths = [k.columns for k in self._pooled]
        width = sum(widths)
        if not self._sequences:
            block = flat.view(-1, width) if width else flat.view(0, 0)
            return list(block.split(widths, 1)) if len(widths) > 1 else [block] * len(widths)
        blocks, segments = [], [[] for _ in self._segments_out]  # type: ignore[var-annotated]
        slots = self._layout.sequences[self._rank]
        for rank, message in enumerate(flat.split(self._sizes_out)):
            counts = [of_slot[rank] for of_slot in self._segments_out]
            sizes = [self._received.sizes[rank] * width, *(n * s.columns for n, s in zip(counts, slots, strict=True))]
            block, *pieces = message.split(sizes)
            blocks.append(block.view(-1, width) if width else block)
            for of_slot, piece, slot in zip(segments, pieces, slots, strict=True):
                of_slot.append(piece.view(-1, slot.columns))
        gradients = list(torch.cat(blocks).split(widths, 1)) if widths else []
        at = 0
        for kernel in self._sequences:
            gradients.append(torch.cat([piece for s in segments[at : at + len(kernel.slots)] for piece in s]))
            at += len(kernel.slots)
        return gradients

    # ---------------------------------------------------------------- message -> parts, parts' gradients -> message

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Returns all parts' vectors: [B, columns] of each pooled one, then [ids, columns] of each key of sequences."""
        blocks, segments = self._taken_apart(flat)
        found = []
        for part in self._layout.pooled.values():
            columns = []
            for piece in part.columns:
                if piece.rank is not None:
                    (start, stop), *_ = piece.spans
                    columns.append(blocks[piece.rank][:, start:stop])
                else:
                    addends = [block[:, a:b] for block, (a, b) in zip(blocks, piece.spans, strict=True)]
                    total = addends[0] + addends[1]
                    for addend in addends[2:]:
                        total += addend
                    columns.append(total)
            found.append(columns[0].contiguous() if len(columns) == 1 else torch.cat(columns, 1))
        for key in self._layout.keys:
            pieces = [segments[s.rank][s.place] for s in key.segments]
            if key.by_rows:
                found.append(torch.cat(pieces).index_select(0, self._order(key)))
            else:
                found.append(pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces, 1))
        return found

    def _order(self, key: SequenceKey) -> Tensor:
        return self._own.order[_wanted(key.segments[0].slot)]

    def _taken_apart(self, flat: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        blocks, segments = [], []
        for rank, message in enumerate(flat.split(self._sizes_in)):
            block, *pieces = message.split(self._pieces_in(rank))
            width, slots = self._layout.widths[rank], self._layout.sequences[rank]
            blocks.append(block.view(self._own.rows, width))
            segments.append([piece.view(-1, slot.columns) for piece, slot in zip(pieces, slots, strict=True)])
        return blocks, segments

    def gradient_message(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Returns what is sent back, in order, from the gradients of `parts`."""
        layout = self._layout
        columns: list[list[tuple[int, Tensor]]] = [[] for _ in range(layout.ranks)]  # of each rank: start in its block
        for part, gradient in zip(layout.pooled.values(), gradients, strict=False):
            for piece in part.columns:
                of_piece = gradient[:, piece.start : piece.start + piece.width]
                ranks = range(layout.ranks) if piece.rank is None else (piece.rank,)
                for rank, span in zip(ranks, piece.spans, strict=True):
                    columns[rank].append((span[0], of_piece))
        blocks = []
        for of_rank in columns:
            pieces = [piece for _, piece in sorted(of_rank, key=lambda found: found[0])]
            blocks.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1) if pieces else None)
        segments: list[dict[int, Tensor]] = [{} for _ in range(layout.ranks)]
        for key, gradient in zip(layout.keys, gradients[len(layout.pooled) :], strict=True):
            for segment, vectors in zip(key.segments, self._segments_of(key, gradient), strict=True):
                segments[segment.rank][segment.place] = vectors
        return [
            piece
            for block, of_rank in zip(blocks, segments, strict=True)
            for piece in (*([] if block is None else [block]), *(of_rank[i] for i in range(len(of_rank))))
        ]

    def _segments_of(self, key: SequenceKey, gradient: Tensor) -> Sequence[Tensor]:
        if key.by_rows:
            dealt = torch.empty_like(gradient).index_copy_(0, self._order(key), gradient)
            return dealt.split([self._segments_in[s.rank][s.place] for s in key.segments])
        if len(key.segments) == 1:
            return (gradient,)
        ends = [0, *accumulate(s.slot.columns for s in key.segments)]
        return [gradient[:, a:b] for a, b in pairwise(ends)]

    # ---------------------------------------------------------------- the exchange

    def exchanged(self, message: Sequence[Tensor], *, back: bool) -> Tensor:
        """Returns what all ranks sent to this one, in fp32; `back`: of gradients."""
        there = self._numbers.gradients if back else self._numbers.vectors
        sent, received = (self._sizes_in, self._sizes_out) if back else (self._sizes_out, self._sizes_in)
        parts = message if there is None else [part.to(there) for part in message]
        return Sending(parts, sent, received, self._group).received().float()


def _wanted(slot: Slot) -> Wanted:
    return Wanted(slot.feature, slot.block)


def exchange(step: VectorStep, outputs: Sequence[Tensor], hook: Tensor) -> tuple[Tensor, ...]:
    """Returns all parts' vectors, as `VectorStep.parts`, of the kernels' outputs.

    hook: a tensor that requires a gradient where any rank's tables do: backward is an exchange, which all ranks join.
    """
    return _Exchange.apply(step, hook, *outputs)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: VectorStep, hook: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        return tuple(step.parts(step.exchanged(step.message(outputs), back=False)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        step: VectorStep = ctx.step
        flat = step.exchanged(step.gradient_message(gradients), back=True)
        flat /= step.ranks
        return (None, None, *step.kernel_gradients(flat))
