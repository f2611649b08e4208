"""The order says which rows come when: arithmetic on row-group sizes, without I/O, state or a generator to be lost.

Rows are numbered as they lie in the data set (files in order, rows in order). A *unit* is a run of consecutive row
groups of at least 64k rows, or a slice of a huge one. An epoch's order is its units, permuted by the seed, one after
another; it is cut into `lanes` slices whose lengths differ by at most one row. Global batch `s` takes the next
`global_batch_size / lanes` rows of every lane. Within a lane, rows are shuffled in disjoint windows.

So the rows of a batch depend on (data, seed, epoch, lanes, window, global_batch_size, s) and not on the world size,
and (epoch, step) is all that a resumed run needs. Given up: a shuffle over the whole data set. Rows that lie close
together in the files meet within a window; rows of different lanes meet in a batch.

Random numbers are Philox blocks addressed by (seed, purpose, epoch, lane, index). Only their raw bits are used, which
NumPy keeps stable over versions and platforms.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardrec.data_pipeline.errors import UserError

UNIT_ROWS = 65_536
"""Rows of a unit, at least: long enough that opening it is cheap, short enough that many units make an epoch."""

MOST_DEFAULT_LANES = 16
"""Enough windows for well-mixed batches; more lanes only if asked for."""

_UNITS, _WINDOWS = 1, 2  # purposes of random numbers


class Share(NamedTuple):
    """A share is part `part` of `parts` of one lane's rows of every batch."""

    lane: int
    part: int
    parts: int

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """Returns this share of the lane's rows start .. stop."""
        rows = stop - start
        return start + rows * self.part // self.parts, start + rows * (self.part + 1) // self.parts


@dataclass(frozen=True, eq=False)
class Order:
    """An order is that of the rows in all epochs of one data set.

    group_rows: [groups] int64, rows of each row group, files in order; empty ones may be among them
    shuffle: False keeps the order of the files (units and windows are then not permuted)

    Raises UserError where `lanes` does not divide `global_batch_size`.
    """

    group_rows: np.ndarray
    global_batch_size: int
    lanes: int
    window: int = 16_384
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        size, lanes = self.global_batch_size, self.lanes
        for name, value in (("global_batch_size", size), ("lanes", lanes), ("window", self.window)):
            if value < 1:
                raise UserError(f"data.{name} is {value}, expected at least 1")
        if size % lanes:
            below = size // lanes * lanes
            near = f"{below} or {below + lanes}" if below else f"{lanes}"
            raise UserError(
                f"data.global_batch_size {size} is not a multiple of data.lanes {lanes}; the nearest multiples: {near}"
            )

    # ------------------------------------------------------------ sizes

    @cached_property
    def num_rows(self) -> int:
        """Returns the number of rows of the data set."""
        return int(self.group_rows.sum())

    @property
    def lane_batch(self) -> int:
        """Returns how many rows one lane gives to a global batch."""
        return self.global_batch_size // self.lanes

    @property
    def steps_per_epoch(self) -> int:
        """Returns how many global batches an epoch has."""
        return -(-self.lane_rows(self.lanes - 1) // self.lane_batch)  # no lane is longer than the last one

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Returns where a lane starts and stops in the epoch's order."""
        return self.num_rows * lane // self.lanes, self.num_rows * (lane + 1) // self.lanes

    def lane_rows(self, lane: int) -> int:
        """Returns how many rows a lane has."""
        start, stop = self.lane_bounds(lane)
        return stop - start

    # ------------------------------------------------------------ units and lanes

    @cached_property
    def units(self) -> np.ndarray:
        """Returns [units + 1] int64: unit i is rows units[i] .. units[i + 1].

        A unit of over a quarter of all rows (a huge row group) is cut into slices of at least `UNIT_ROWS` and about
        1/32 of all rows: permuting fewer than four units would shuffle next to nothing.
        """
        ends: list[int] = np.cumsum(self.group_rows, dtype=np.int64).tolist()
        rows, bounds = self.num_rows, [0]
        while rows - bounds[-1] >= UNIT_ROWS:
            start = bounds[-1]
            stop = ends[bisect_left(ends, start + UNIT_ROWS)]
            if rows - stop < UNIT_ROWS:  # too few for a unit of their own
                stop = rows
            slices = 1
            if stop - start > rows // 4:
                slices = max((stop - start) // max(UNIT_ROWS, rows // 32), 1)
            bounds += [start + (stop - start) * i // slices for i in range(1, slices + 1)]
        return np.array(bounds if bounds[-1] else [0, rows], np.int64)

    def lane_ranges(self, epoch: int, lane: int) -> np.ndarray:
        """Returns [ranges, 2] int64: the rows (start, stop) of a lane, range by range, before windows shuffle them."""
        if not self.shuffle:
            return np.array([self.lane_bounds(lane)], np.int64)[: self.lane_rows(lane)]
        units = permutation(len(self.units) - 1, self.seed, _UNITS, epoch)
        starts, ends = self.units[:-1][units], self.units[1:][units]
        stops = np.cumsum(ends - starts)  # in the epoch's order
        begin, finish = self.lane_bounds(lane)
        first, last = np.searchsorted(stops, (begin, finish), side="right")
        chosen = slice(first, last + 1)
        at = stops[chosen] - (ends - starts)[chosen]
        ranges = np.stack(
            [
                starts[chosen] + np.maximum(begin - at, 0),
                ends[chosen] - np.maximum(stops[chosen] - finish, 0),
            ],
            axis=1,
        )
        return ranges[ranges[:, 0] < ranges[:, 1]]

    # ------------------------------------------------------------ windows

    def window_bounds(self, lane: int, position: int) -> tuple[int, int]:
        """Returns the lane's positions (start, stop) of the window that holds `position`.

        Each lane's windows start a little earlier than those of the lane before it, so that lanes do not all reach a
        new window, with its decoding, at the same step.
        """
        shift = lane * self.window // self.lanes
        start = (position + shift) // self.window * self.window - shift
        return max(start, 0), min(start + self.window, self.lane_rows(lane))

    def window_permutation(self, epoch: int, lane: int, start: int, stop: int) -> np.ndarray | None:
        """Returns [stop - start] int64: row k of the window start .. stop is its row permutation[k].

        None: rows stay in order.
        """
        if not self.shuffle:
            return None
        return permutation(stop - start, self.seed, _WINDOWS, epoch, lane, start)

    # ------------------------------------------------------------ ranks

    def batch_bounds(self, lane: int, step: int) -> tuple[int, int]:
        """Returns the lane's positions (start, stop) that belong to global batch `step`; none past the lane's end."""
        rows = self.lane_rows(lane)
        return min(step * self.lane_batch, rows), min((step + 1) * self.lane_batch, rows)

    def shares(self, rank: int, world_size: int) -> list[Share]:
        """Returns what a rank reads: whole lanes, dealt as evenly as possible, or a contiguous part of one."""
        if world_size <= self.lanes:
            first, last = self.lanes * rank // world_size, self.lanes * (rank + 1) // world_size
            return [Share(lane, 0, 1) for lane in range(first, last)]
        lane = rank * self.lanes // world_size
        first, next_first = -(-lane * world_size // self.lanes), -(-(lane + 1) * world_size // self.lanes)
        return [Share(lane, rank - first, next_first - first)]

    def rank_rows(self, step: int, rank: int, world_size: int) -> int:
        """Returns how many rows of global batch `step` a rank has."""
        total = 0
        for share in self.shares(rank, world_size):
            start, stop = share.of(*self.batch_bounds(share.lane, step))
            total += stop - start
        return total

    def planned_rows(self, step: int) -> int:
        """Returns how many rows global batch `step` has."""
        return int(self._lanes_rows(step).sum())

    def _lanes_rows(self, step: int) -> np.ndarray:
        """Returns [lanes] int64: the rows that each lane gives to global batch `step`."""
        bounds = np.array([self.num_rows * lane // self.lanes for lane in range(self.lanes + 1)], np.int64)
        return np.clip(np.diff(bounds) - step * self.lane_batch, 0, self.lane_batch)

    def padded_rows(self, step: int, world_size: int) -> int:
        """Returns the rows of every rank's batch at `step`: as many as the fullest rank has."""
        ranks = np.arange(world_size, dtype=np.int64)
        lanes = np.arange(self.lanes + 1, dtype=np.int64)
        rows = self._lanes_rows(step)
        if world_size <= self.lanes:
            return int(np.add.reduceat(rows, self.lanes * ranks // world_size).max())
        parts = np.diff(-(-lanes * world_size // self.lanes))
        return int((-(-rows // parts)).max())


def permutation(count: int, seed: int, purpose: int, epoch: int, lane: int = 0, index: int = 0) -> np.ndarray:
    """Returns [count] int64: a permutation of 0 .. count - 1 that is a pure function of the arguments.

    Places are sorted by random numbers whose lowest bits hold the place itself, so that no two are equal.
    """
    mask = np.uint64(2**64 - 1)
    key = np.array([seed & int(mask), purpose], np.uint64)
    random = np.random.Philox(key=key, counter=np.array([0, index, lane, epoch], np.uint64)).random_raw(count)
    low = np.uint64((1 << max(count - 1, 1).bit_length()) - 1)
    return (np.sort((random & ~low) | np.arange(count, dtype=np.uint64)) & low).astype(np.int64)


def default_lanes(global_batch_size: int, lane_bytes: int, memory: int) -> int:
    """Returns the largest power of two, up to 16, that divides the global batch and whose lanes fit `memory` bytes."""
    lanes = MOST_DEFAULT_LANES
    while lanes > 1 and (global_batch_size % lanes or lanes * lane_bytes > memory):
        lanes //= 2
    return lanes
