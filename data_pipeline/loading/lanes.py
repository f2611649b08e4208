"""One rank's lanes of one epoch turn ranges of rows into blocks, and blocks into shuffled windows.

A row group that several ranges of this rank touch (a slice boundary or a huge group) is decoded once and the chunks
still needed are kept, while they fit the memory given; else each range decodes it again from the group's start.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from shardrec.data_pipeline.loading.footprint import Footprint
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.gaps import Gap, GapReader
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.reading.order import Order, Share
from shardrec.data_pipeline.reading.parquet import Chunk, RangeReader


class _SharedGroup:
    """A shared group is a row group that several ranges need, decoded once.

    A chunk of it stays until its last range is done.
    """

    def __init__(self, chunks: Iterator[Chunk | Gap], layout: Layout, ranges: list[tuple[int, int]]) -> None:
        self._kept: list[tuple[int, int, Block]] = []  # first row, how many ranges still need it, rows
        for chunk in chunks:
            first, after = chunk.place, chunk.place + chunk.rows
            needed = sum(start < after and stop > first for start, stop in ranges)
            if needed:
                self._kept.append((first, needed, layout.block(chunk)))

    def read(self, start: int, stop: int) -> Iterator[Block]:
        """Yields rows start .. stop, one of the ranges; each range is read once."""
        while start < stop:
            place = next(i for i, (first, _, block) in enumerate(self._kept) if start < first + block.rows)
            first, needed, block = self._kept.pop(place)
            if needed > 1:
                self._kept.insert(place, (first, needed - 1, block))
            end = min(stop, first + block.rows)
            yield block.slice(start - first, end - first)
            start = end


class LaneReader:
    """A lane reader gives the rows of a rank's lanes in one epoch, from one step on."""

    def __init__(
        self,
        order: Order,
        layout: Layout,
        reader: RangeReader | GapReader,
        shares: list[Share],
        *,
        epoch: int,
        start_step: int,
        footprint: Footprint,
        memory: int,
    ) -> None:
        """Finds the lanes' places at `start_step`.

        memory: bytes for chunks of row groups that several ranges touch
        """
        self._index = reader.index
        self._layout = layout
        self._reader = reader
        self._gapless = isinstance(reader, RangeReader)
        self._free = memory
        self._footprint = footprint
        self._shared: dict[int, tuple[_SharedGroup, list[tuple[int, int]]]] = {}
        lanes = []
        for share in shares:
            position, stop = order.batch_bounds(share.lane, start_step)
            position = order.window_bounds(share.lane, position)[0] if position < stop else order.lane_rows(share.lane)
            ranges = _from(order.lane_ranges(epoch, share.lane), position)
            lanes.append((share, position, ranges))
        self._ranges = shared_groups(reader.index, [ranges for _, _, ranges in lanes])
        self._lanes = [_Lane(order, epoch, share, position, self._blocks(r)) for share, position, r in lanes]

    def take(self, step: int) -> list[Block]:
        """Returns this rank's rows of global batch `step`, without those in gaps; steps are taken in order."""
        taken = (block for lane in self._lanes for block in lane.take(step))
        if self._gapless:
            return list(taken)
        return [block for block in map(Block.without_gaps, taken) if block.rows]

    def close(self) -> None:
        """Lets go of its files, which would stay open until garbage is collected: it and its lanes hold each other."""
        self._lanes.clear()

    def _blocks(self, ranges: np.ndarray) -> Iterator[Block]:
        for start, stop in ranges:
            for group, first, last in _segments(self._index, self._ranges, int(start), int(stop)):
                yield from self._read(first, last) if group is None else self._read_shared(group, first, last)

    def _read(self, start: int, stop: int) -> Iterator[Block]:
        for first, last in self._index.runs(start, stop, self._footprint.run_rows):
            blocks = map(self._layout.block, self._reader.read(first, last))
            whole = self._footprint.all_kept or last - first <= self._footprint.whole_rows
            while decoded := deque(islice(blocks, None if whole else self._footprint.chunks_ahead)):
                while decoded:
                    yield decoded.popleft()

    def _read_shared(self, group: int, start: int, stop: int) -> Iterator[Block]:
        if group not in self._shared:
            ranges = self._ranges[group]
            needed = self._bytes(sum(b - a for a, b in ranges))
            if len(ranges) < 2 or needed > self._free:
                ranges.remove((start, stop))
                yield from self._read(start, stop)
                return
            self._free -= needed
            chunks = self._reader.read(self._index.group_bounds(group)[0], max(b for _, b in ranges))
            self._shared[group] = _SharedGroup(chunks, self._layout, ranges), list(ranges)
        shared, unread = self._shared[group]
        yield from shared.read(start, stop)
        unread.remove((start, stop))
        self._free += self._bytes(stop - start)
        if not unread:
            del self._shared[group]

    def _bytes(self, rows: int) -> int:
        return int(rows * self._footprint.row_bytes)


class _Lane:
    """A lane gives its rows window by window."""

    def __init__(self, order: Order, epoch: int, share: Share, position: int, blocks: Iterator[Block]) -> None:
        self._order = order
        self._epoch = epoch
        self._share = share
        self._blocks = blocks
        self._rest: Block | None = None  # of a chunk, behind the current window
        self._window: Block | None = None
        self._start = self._stop = position  # of the current window

    def take(self, step: int) -> Iterator[Block]:
        """Yields this share of the lane's rows of global batch `step`."""
        position, stop = self._share.of(*self._order.batch_bounds(self._share.lane, step))
        while position < stop:
            while position >= self._stop:
                self._next_window()
            assert self._window is not None
            end = min(stop, self._stop)
            yield self._window.slice(position - self._start, end - self._start)
            position = end

    def _next_window(self) -> None:
        self._window = None
        lane = self._share.lane
        start, stop = self._order.window_bounds(lane, self._stop)
        window = Block.join(list(self._pull(stop - start)))
        permutation = self._order.window_permutation(self._epoch, lane, start, stop)
        self._window = window if permutation is None else window.take(permutation)
        self._start, self._stop = start, stop

    def _pull(self, rows: int) -> Iterator[Block]:
        """Yields the lane's next rows in unshuffled order."""
        while rows:
            block = next(self._blocks) if self._rest is None else self._rest
            self._rest = block.slice(rows, block.rows) if block.rows > rows else None
            block = block.slice(0, min(rows, block.rows))
            rows -= block.rows
            yield block


def shared_groups(index: Index, ranges: Sequence[np.ndarray]) -> dict[int, list[tuple[int, int]]]:
    """Returns the row groups of which several ranges ([n, 2] each) need a part, with those parts as ranges of rows."""
    starts, stops = np.concatenate(ranges).T
    first, last = (np.searchsorted(index.group_starts, row, side="right") - 1 for row in (starts, stops - 1))
    inner = last != first
    groups = np.concatenate([first, last[inner]])
    begins, ends = index.group_starts[groups], index.group_starts[groups + 1]
    starts = np.maximum(np.concatenate([starts, starts[inner]]), begins)
    stops = np.minimum(np.concatenate([stops, stops[inner]]), ends)
    parts: dict[int, list[tuple[int, int]]] = {}
    for i in np.flatnonzero((starts > begins) | (stops < ends)):
        parts.setdefault(int(groups[i]), []).append((int(starts[i]), int(stops[i])))
    return {group: needed for group, needed in parts.items() if len(needed) > 1}


def _segments(
    index: Index, shared: dict[int, list[tuple[int, int]]], start: int, stop: int
) -> Iterator[tuple[int | None, int, int]]:
    """Cuts a range where a shared row group starts or ends.

    Yields the group's number (None: it is not shared), the first row and the one after the last.
    """
    for group in sorted({index.group_of(start), index.group_of(stop - 1)} & shared.keys()):
        begin, end = index.group_bounds(group)
        begin, end = max(begin, start), min(end, stop)
        if start < begin:
            yield None, start, begin
        yield group, begin, end
        start = end
    if start < stop:
        yield None, start, stop


def _from(ranges: np.ndarray, position: int) -> np.ndarray:
    """Returns the ranges without their first `position` rows."""
    stops = np.cumsum(ranges[:, 1] - ranges[:, 0])
    rest = ranges[np.searchsorted(stops, position, side="right") :].copy()
    if len(rest):
        rest[0, 0] = rest[0, 1] - (stops[len(ranges) - len(rest)] - position)
    return rest
