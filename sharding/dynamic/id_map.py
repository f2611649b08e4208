"""An id map says which row each raw id of a dynamic table has: it admits, evicts and counts any 64-bit ids.

What an id gets is a function of the sequence of global batches alone: of each step's distinct ids and how often they
occur in the whole batch. It depends neither on their order nor on the plan or the number of ranks, since ids fall
into a fixed number of buckets, each with rows of its own, that ranks divide among themselves (`set_cache.py`).
Everything is done to whole batches: by torch operations, on any device, or on CPU by the compiled kernel, to the same
bits. Ids of a bucket are best given side by side, as `distinct.py` does, so that its rows are in the cache.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry, DynamicConfig, DynamicIds
from shardrec.sharding.dynamic.set_cache import UNUSED, Placed, SetCache, sets_of
from shardrec.sharding.dynamic.worth import Worth
from shardrec.sharding.kernels.id_map import CacheMemory, IdMapKernel, cache_memory
from shardrec.sharding.kernels.library import library
from shardrec.sharding.tables.draws import mixed, signed

_BITS = 31
_LARGEST = (1 << _BITS) - 1  # steps are less

ROW_BYTES, CANDIDATE_BYTES = 4 * 8, 3 * 8
"""Bytes of a row's columns in `row_state`, and of a candidate's in `candidate_state`."""


@dataclass(frozen=True)
class Observed:
    """A step's distinct ids got these rows, numbered within the table.

    rows: [n] int64, -1 for an id without a row. fresh_rows, fresh_ids: [m] the rows that another id than before has,
    ascending, and which.
    """

    rows: Tensor
    fresh_rows: Tensor
    fresh_ids: Tensor


@dataclass
class IdCounters:
    """Counters are sums since the map was made, of this part of it; the table's are the sums over all parts.

    Churn is what evictions grew by, over the rows that are occupied.
    admissions: ids that got a row. evictions: ids that lost theirs. refused: times that an id was to be admitted, but
    no row that it may have was to be taken. forgotten: candidates whose counts were dropped to make room.
    """

    admissions: int = 0
    evictions: int = 0
    refused: int = 0
    forgotten: int = 0

    def add(self, admissions: int = 0, evictions: int = 0, refused: int = 0, forgotten: int = 0) -> None:
        """Adds what a step adds."""
        self.admissions += admissions
        self.evictions += evictions
        self.refused += refused
        self.forgotten += forgotten


class IdMap:
    """An id map has the ids of `buckets` (None: all) of the dynamic table `name`.

    An id that occurs gets a row once it is admitted, and keeps it until another takes it. Until then it is a
    candidate, whose count is exact while it stays one; where there are too many, a new candidate takes the place of the
    least frequent, among these the one unused for longest.
    `row_state` and `candidate_state` are live memory, named as columns to be saved; whoever overwrites them has loaded
    the map. Rows that no id has have the count 0. name, seed: what draws of `probability` depend on. compiled: False
    keeps to torch operations where there is a compiled kernel.
    """

    def __init__(
        self,
        config: DynamicConfig,
        *,
        name: str,
        seed: int,
        geometry: BucketGeometry | None = None,
        buckets: range | None = None,
        device: torch.device | str = "cpu",
        compiled: bool = True,
    ) -> None:
        self.config, self.name, self.seed = config, name, seed
        if geometry is None:
            assert config.rows is not None
            geometry = BucketGeometry.of(config.rows)
        self.geometry = geometry
        self.buckets = range(self.geometry.buckets) if buckets is None else buckets
        self.counters = IdCounters()
        place = torch.device(device)
        self._rows = SetCache(self.geometry, self.buckets, Worth(config.evict, config.age), place)
        self._admitted = torch.zeros_like(self._rows.count)
        scaled = self.geometry.scaled(config.candidates)
        self._candidates = SetCache(scaled, self.buckets, Worth(), place) if config.after > 1 else None
        self._kernel = self._compiled() if compiled and place.type == "cpu" and library() is not None else None

    def _compiled(self) -> IdMapKernel:
        rows, waiting = (None if c is None else _memory(c) for c in (self._rows, self._candidates))
        assert rows is not None
        kept = self._admitted, self._rows.fillers
        return IdMapKernel(self.geometry, self.buckets, rows, waiting, *kept, self.config.after)

    @property
    def first_row(self) -> int:
        """Returns the number in the table of this part's first row."""
        return self.buckets.start * self.geometry.bucket_rows

    @property
    def first_candidate(self) -> int:
        """Returns the number among all parts' candidates of this part's first one."""
        return self.buckets.start * self._candidates.geometry.bucket_rows if self._candidates else 0

    @property
    def row_state(self) -> dict[str, Tensor]:
        """Returns each row's id, count, last step, and the step that admitted it: [rows of this part] int64 each."""
        rows = self._rows
        return {"id": rows.ids, "count": rows.count, "last_use": rows.last_use, "admitted": self._admitted}

    @property
    def candidate_state(self) -> dict[str, Tensor]:
        """Returns each candidate's id, count and last step: [candidates of this part] int64; empty without `after`.

        Buckets are ranges of candidates as they are of rows.
        """
        cache = self._candidates
        if cache is None:
            return {}
        return {"candidate_id": cache.ids, "candidate_count": cache.count, "candidate_last_use": cache.last_use}

    @property
    def candidate_rows(self) -> int:
        """Returns how many candidates all parts together may hold."""
        return self._candidates.geometry.rows if self._candidates else 0

    def occupied(self) -> int:
        """Returns how many rows of this part an id has."""
        return self._rows.occupied()

    def candidates(self) -> int:
        """Returns how many candidates this part holds."""
        return self._candidates.occupied() if self._candidates else 0

    def find(self, ids: Tensor) -> Tensor:
        """Returns the table's rows of ids [n] int64 of this part's buckets, -1 for unknown ids. Changes nothing."""
        if self._kernel:
            return self._kernel.find(ids)
        return self._numbered(self._rows.find(ids, self._sets(ids)))

    @torch.no_grad()
    def observe(self, ids: Tensor, counts: Tensor, step: int) -> Observed:
        """Counts a step's distinct `ids` [n] int64 of this part's buckets, each `counts` [n] >= 1 times; admits them.

        Steps (0 <= step < 2^31) do not decrease. Ids that are to get a row in one step are served as `SetCache.place`
        says. An id that cannot be placed stays as it was: a candidate, if there are any.
        """
        assert 0 <= step <= _LARGEST
        if self._kernel:
            rows, *fresh, counted = self._kernel.observe(ids, counts, self._drawn(ids, counts, step), step)
            self.counters.add(*counted)
            return Observed(rows, *fresh)
        sets = self._sets(ids)
        rows = self._rows.find(ids, sets)
        is_new = rows < 0
        new, known = is_new.nonzero().squeeze(1), is_new.logical_not().nonzero().squeeze(1)
        self._rows.use(rows.index_select(0, known), counts.index_select(0, known), step)
        ids = ids.index_select(0, new)
        placed = self._admit(ids, counts.index_select(0, new), sets.index_select(0, new), step)
        rows.index_copy_(0, new, placed.rows)
        fresh_rows, order = torch.sort(placed.rows)
        order = order[fresh_rows >= 0]
        self.counters.add(admissions=len(order), evictions=int(placed.evicted.sum()))
        return Observed(self._numbered(rows), placed.rows[order] + self.first_row, ids[order])

    @torch.no_grad()
    def fill(self, ids: Tensor, step: int) -> Tensor:
        """Gives free rows to distinct `ids` [n] int64 of this part that have none; returns them, -1 for none.

        No id loses its row for them. They count as if each had occurred once in `step`, which may be -1; an id for
        which no row is free stays as it was.
        """
        counts = torch.ones_like(ids)
        if self._kernel:
            rows, *_, counted = self._kernel.observe(ids, counts, None, step, fills=True)
            self.counters.add(*counted)
            return rows
        sets, candidates = self._sets(ids), self._candidates
        known = torch.full_like(ids, -1) if candidates is None else candidates.find(ids, sets)
        if candidates is not None:
            counts += torch.where(known >= 0, candidates.count[known.clamp(min=0)], 0)
        placed = self._rows.place(ids, counts, sets, step, evict=False).rows
        has_row = placed >= 0
        if candidates is not None:
            candidates.free(known[has_row & (known >= 0)])
        self._admitted.index_fill_(0, placed[has_row], step)
        self.counters.add(admissions=int(has_row.sum()))
        return self._numbered(placed)

    @torch.no_grad()
    def start_over(self, step: int) -> None:
        """Counts steps anew: what was last used k steps before `step` is k steps old at step 0.

        For a run that starts with the map of another, which had come to `step`. Ids keep their counts.
        """
        for cache in (self._rows, self._candidates):
            if cache is not None:
                cache.last_use.sub_(step).clamp_(min=UNUSED + 1).masked_fill_(cache.count == 0, UNUSED)
        self._admitted.sub_(step).clamp_(min=UNUSED + 1).masked_fill_(self._rows.count == 0, 0)

    def _sets(self, ids: Tensor) -> Tensor:
        """Returns the sets [n, choices] that ids [n] may be in, of those of this part."""
        return sets_of(self.geometry, ids).sub_(self.buckets.start * self.geometry.bucket_sets)

    def _numbered(self, rows: Tensor) -> Tensor:
        """Returns rows [n] of this part as they are numbered in the table."""
        return torch.where(rows < 0, rows, rows + self.first_row)

    def _admit(self, ids: Tensor, counts: Tensor, sets: Tensor, step: int) -> Placed:
        """Returns rows [n] for new ids [n]; those that get none are candidates afterwards."""
        candidates = self._candidates
        if candidates is None:
            return self._place(ids, counts, sets, self._drawn(ids, counts, step), step)
        known = candidates.find(ids, sets)
        counts = counts + torch.where(known >= 0, candidates.count[known.clamp(min=0)], 0)
        placed = self._place(ids, counts, sets, counts >= self.config.after, step)
        counted = known >= 0
        candidates.free(known[counted & (placed.rows >= 0)])
        stays = (counted & (placed.rows < 0)).nonzero().squeeze(1)
        candidates.count[known[stays]] = counts[stays]
        candidates.last_use[known[stays]] = step
        fresh = (~counted & (placed.rows < 0)).nonzero().squeeze(1)
        pushed = candidates.place(ids[fresh], counts[fresh], sets[fresh], step)
        self.counters.add(forgotten=int(pushed.evicted.sum()) + int((pushed.rows < 0).sum()))
        return placed

    def _place(self, ids: Tensor, counts: Tensor, sets: Tensor, admitted: Tensor | None, step: int) -> Placed:
        """Gives rows to those of the new ids that are `admitted` [n] (None: all)."""
        if admitted is None:
            placed = self._rows.place(ids, counts, sets, step)
        else:
            which = admitted.nonzero().squeeze(1)
            part = self._rows.place(ids[which], counts[which], sets[which], step)
            placed = Placed(torch.full_like(ids, -1), torch.zeros_like(admitted))
            for whole, values in zip(placed, part, strict=True):
                whole[which] = values
        has_row = (placed.rows >= 0).nonzero().squeeze(1)
        self._admitted.index_fill_(0, placed.rows[has_row], step)
        wanted = len(ids) if admitted is None else len(which)
        self.counters.add(refused=wanted - len(has_row))
        return placed

    def _drawn(self, ids: Tensor, counts: Tensor, step: int) -> Tensor | None:
        """Draws which ids [n] are admitted, with chance 1 - (1 - p)^count, by (seed, table, id, step). None: all."""
        if self.config.probability is None:
            return None
        digest = hashlib.blake2b(f"admission {self.seed} {self.name} {step}".encode(), digest_size=8).digest()
        words = mixed(ids + signed(int.from_bytes(digest, "little")))
        drawn = (words >> 11).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)
        return drawn < 1 - (1 - self.config.probability) ** counts.double()


def _memory(cache: SetCache) -> CacheMemory:
    columns, worth = (cache.ids, cache.count, cache.last_use), cache.worth
    return cache_memory(columns, cache.geometry.ways, worth.evict, worth.age)


def id_map_bytes(ids: DynamicIds) -> int:
    """Returns the bytes of a whole id map, of which a rank has its share."""
    candidates = ids.geometry.scaled(ids.config.candidates).rows if ids.config.after > 1 else 0
    return ids.geometry.rows * ROW_BYTES + candidates * CANDIDATE_BYTES
