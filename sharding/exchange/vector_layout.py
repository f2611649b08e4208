"""The layout of vectors says where in the ranks' messages each part's columns and sequences are.

A message from one rank to another is a block [B, columns] of all its pooled sums, then the vectors of its sequences,
slot by slot. A pooled part has the columns of tables that ranks hold whole first, rank by rank; then those of tables
that are cut by columns; then those of tables that are cut by rows, which are summed over the ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shardrec.sharding.exchange.slots import KernelSlots, Slot, Span


@dataclass(frozen=True)
class Columns:
    """Columns are a span of a rank's block, or the sum of one of each rank's, and where in a part they go."""

    rank: int | None
    spans: tuple[Span, ...]
    start: int

    @property
    def width(self) -> int:
        """Returns how many columns there are."""
        return self.spans[0][1] - self.spans[0][0]


@dataclass(frozen=True)
class PooledPart:
    """A pooled part has columns by key."""

    keys: list[str]
    lengths: list[int]
    columns: tuple[Columns, ...]


@dataclass(frozen=True)
class Segment:
    """A segment is a slot's vectors in a rank's message: the `place`-th of its sequences."""

    rank: int
    place: int
    slot: Slot


@dataclass(frozen=True)
class SequenceKey:
    """A key of sequences has one segment; several side by side of a table cut by columns, or in turn of one by rows."""

    part: int
    key: str
    segments: tuple[Segment, ...]

    @property
    def by_rows(self) -> bool:
        """Says whether the segments' vectors have to be put in order."""
        return self.segments[0].slot.block > 0


class VectorLayout:
    """A vector layout is of all ranks' kernels, each rank's in their order, and known to all alike."""

    def __init__(self, kernels: Sequence[Sequence[KernelSlots]]) -> None:
        self.ranks = len(kernels)
        self.widths = [sum(k.columns for k in of_rank if k.pooled) for of_rank in kernels]
        self.sequences = [[s for k in of_rank if not k.pooled for s in k.slots] for of_rank in kernels]
        parts = sorted({k.part for of_rank in kernels for k in of_rank})
        is_pooled = {k.part: k.pooled for of_rank in kernels for k in of_rank}
        self.pooled = {part: _pooled_part(part, kernels) for part in parts if is_pooled[part]}
        self.keys = [key for part in parts if not is_pooled[part] for key in _sequence_keys(part, kernels)]


def _pooled_part(part: int, kernels: Sequence[Sequence[KernelSlots]]) -> PooledPart:
    at: dict[str, list[tuple[Slot, int, Span]]] = {}  # of each key: slot, rank, span of its block
    for rank, of_rank in enumerate(kernels):
        start = 0
        for kernel in (k for k in of_rank if k.pooled):
            for slot in kernel.slots:
                if kernel.part == part:
                    at.setdefault(slot.key, []).append((slot, rank, (start, start + slot.columns)))
                start += slot.columns
    whole = [k for k, found in at.items() if len(found) == 1 and not found[0][0].block]
    by_rows = [k for k, found in at.items() if found[0][0].block]
    by_columns = [k for k in at if k not in {*whole, *by_rows}]
    pieces: list[tuple[int | None, tuple[Span, ...]]] = []
    for key in (*whole, *by_columns):
        pieces += [(rank, (span,)) for _, rank, span in sorted(at[key], key=lambda found: found[0].column)]
    pieces += [(None, tuple(span for _, _, span in at[key])) for key in by_rows]
    keys = [*whole, *by_columns, *by_rows]
    lengths = [sum(slot.columns for slot, *_ in at[key]) for key in (*whole, *by_columns)]
    lengths += [at[key][0][0].columns for key in by_rows]
    return PooledPart(keys, lengths, _merged(pieces))


def _merged(pieces: Sequence[tuple[int | None, tuple[Span, ...]]]) -> tuple[Columns, ...]:
    """Returns pieces as columns: those that follow each other in all their blocks as one."""
    merged: list[Columns] = []
    start = 0
    for rank, spans in pieces:
        last = merged[-1] if merged else None
        if last and last.rank == rank and all(a[1] == b[0] for a, b in zip(last.spans, spans, strict=True)):
            joined = tuple((a[0], b[1]) for a, b in zip(last.spans, spans, strict=True))
            merged[-1] = Columns(rank, joined, last.start)
        else:
            merged.append(Columns(rank, spans, start))
        start += spans[0][1] - spans[0][0]
    return tuple(merged)


def _sequence_keys(part: int, kernels: Sequence[Sequence[KernelSlots]]) -> list[SequenceKey]:
    segments: dict[str, list[Segment]] = {}
    for rank, of_rank in enumerate(kernels):
        place = 0
        for kernel in (k for k in of_rank if not k.pooled):
            for slot in kernel.slots:
                if kernel.part == part:
                    segments.setdefault(slot.key, []).append(Segment(rank, place, slot))
                place += 1
    return [SequenceKey(part, k, tuple(sorted(s, key=lambda x: x.slot.column))) for k, s in segments.items()]
