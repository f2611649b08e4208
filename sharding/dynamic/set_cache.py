"""A set-associative cache of ids says where an id may be, where it is, and which id makes room for it.

Rows are grouped into sets, sets into buckets. An id's hash gives its bucket and two sets in it, and it is in one of the
rows of these; so the id of a row is all that there is to know, there is no chain or index to rebuild, and finding reads
as much for every id. Each bucket is a range of rows of its own that no other bucket's ids affect. What is kept is
therefore the same however buckets are dealt to ranks, and moves by copying rows.

A free row has the count 0, and for its id one of another bucket, which none that is looked for here is equal to: any
int64 is a legal id. Its last use is before any other, so that every policy takes it first.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry
from shardrec.sharding.dynamic.worth import NEVER, Worth
from shardrec.sharding.tables.draws import mixed
from shardrec.sharding.tables.live import count_nonzero

UNUSED = -(1 << 31)
"""A free row has this last use."""

_WORD = (1 << 32) - 1
_BYTES = 8  # flags that are compared as one word
_PLACES = 0x0102030405060708  # times 1 << 8 b, the uppermost byte is b + 1
_CHUNK, _CUDA_CHUNK = 1 << 12, 1 << 17  # ids in work at once: on CPU for its cache's sake, on CUDA for memory's


def bucket_of(geometry: BucketGeometry, ids: Tensor) -> Tensor:
    """Returns the buckets of ids: [n] int64 -> [n]. Bucket b has the rows from b * bucket_rows on."""
    return _buckets(geometry, mixed(ids.clone()))[0]


def sets_of(geometry: BucketGeometry, ids: Tensor) -> Tensor:
    """Returns the two sets of each id's bucket that it may be in, by their number in all: [n] int64 -> [n, 2].

    They are distinct; where a bucket has but one set, it is [n, 1].
    """
    words = mixed(ids.clone())
    bucket, rest = _buckets(geometry, words)
    first = (words & _WORD).mul_(geometry.bucket_sets) >> 32
    base = bucket * geometry.bucket_sets
    if geometry.bucket_sets == 1:
        return base.unsqueeze(1)
    second = (rest.mul_(geometry.bucket_sets - 1) >> 32).add_(first).add_(1)
    second -= (second >= geometry.bucket_sets).long().mul_(geometry.bucket_sets)
    return torch.stack([first, second], 1).add_(base.unsqueeze(1))


def _buckets(geometry: BucketGeometry, words: Tensor) -> tuple[Tensor, Tensor]:
    """Returns buckets by the upper half of hashes [n], and 32 further bits [n] that do not depend on them."""
    spread = (words >> 32).bitwise_and_(_WORD).mul_(geometry.buckets)
    return spread >> 32, spread & _WORD


def _fillers(geometry: BucketGeometry, buckets: range) -> Tensor:
    """Returns for each of `buckets` an id of another one."""
    ids = torch.arange(64)
    bucket = bucket_of(geometry, ids)
    id_of_another = ids[bucket != bucket[0]][0]
    return torch.where(torch.arange(buckets.start, buckets.stop) == bucket[0], id_of_another, 0)


class Placed(NamedTuple):
    """Ids were placed in `rows` [n] int64, -1 for none; `evicted` [n] says whether another id lost the row for it."""

    rows: Tensor
    evicted: Tensor


class SetCache:
    """A set cache has the rows of `buckets`. Rows and sets are numbered from the first of these on.

    ids, count, last_use: [rows] int64, of each row its id, its count (0: free) and the last step that named it.
    fillers: [buckets] int64, of each bucket an id of another one, which free rows have.
    """

    def __init__(self, geometry: BucketGeometry, buckets: range, worth: Worth, device: torch.device) -> None:
        self.geometry, self.buckets, self.worth = geometry, buckets, worth
        rows = len(buckets) * geometry.bucket_rows
        self.fillers = _fillers(geometry, buckets).to(device)
        self.ids = self.fillers.repeat_interleave(geometry.bucket_rows)
        self.count = torch.zeros(rows, dtype=torch.int64, device=device)
        self.last_use = torch.full((rows,), UNUSED, dtype=torch.int64, device=device)

    def occupied(self) -> int:
        """Returns how many rows an id has."""
        return count_nonzero(self.count)

    def find(self, ids: Tensor, sets: Tensor) -> Tensor:
        """Returns the rows of ids [n] int64 by their sets [n, choices]: [n], -1 for those that have none."""
        rows = []
        for part, looked in _chunks(ids, sets):
            equal = self._rows_of(self.ids, looked) == part.unsqueeze(1)
            word, where = equal.view(torch.int64).max(1)
            row = self._row(looked, where.mul_(_BYTES).add_((word * _PLACES) >> 56).sub_(1).clamp_(min=0))
            rows.append(torch.where(word > 0, row, -1))
        return torch.cat(rows)

    def _row(self, sets: Tensor, where: Tensor) -> Tensor:
        """Returns the row at `where` [n] among the rows of sets [n, choices]."""
        chosen = where // self.geometry.ways
        return sets.gather(1, chosen.unsqueeze(1)).squeeze(1).sub_(chosen).mul_(self.geometry.ways).add_(where)

    def _rows_of(self, tensor: Tensor, sets: Tensor) -> Tensor:
        """Returns the values that a tensor of all rows [rows] has in sets [n, choices]: [n, choices * ways]."""
        values = tensor.view(-1, self.geometry.ways).index_select(0, sets.reshape(-1))
        return values.view(len(sets), sets.shape[1] * self.geometry.ways)

    def use(self, rows: Tensor, counts: Tensor, step: int) -> None:
        """Counts distinct `rows` [n], each `counts` [n] times."""
        self.count.index_add_(0, rows, counts)
        self.last_use.index_fill_(0, rows, step)

    def free(self, rows: Tensor) -> None:
        """Forgets the ids of `rows` [n]."""
        self.ids[rows] = self.fillers[rows // self.geometry.bucket_rows]
        self.count.index_fill_(0, rows, 0)
        self.last_use.index_fill_(0, rows, UNUSED)

    def place(self, ids: Tensor, counts: Tensor, sets: Tensor, step: int, *, evict: bool = True) -> Placed:
        """Gives rows to distinct new `ids` [n], whose counts [n] and sets [n, choices] these are.

        In rounds. In each, an id that waits picks one of its sets: that with more free rows (the first, if both have
        as many); where neither has any, the one whose least row is worth less (of equal rows the first). Of the ids
        that picked a set, half as many as it has free rows get these in order, or one gets the least row: first come
        those of larger count, then of smaller id. Rows named in `step` are not taken, nor without `evict` any that
        an id has. An id waits until it has a row or none is left for it.
        """
        rows = torch.full_like(ids, -1)
        evicted = torch.zeros_like(ids, dtype=torch.bool)
        waiting = self._in_order(ids, counts, sets)
        while len(waiting):
            waiting_sets = sets.index_select(0, waiting)
            least = self._least(waiting_sets, step, evict)
            served, taken = self._serve(waiting_sets, least)
            won = waiting.index_select(0, served)
            rows.index_copy_(0, won, taken)
            evicted.index_copy_(0, won, self.count.index_select(0, taken) > 0)
            self.ids.index_copy_(0, taken, ids.index_select(0, won))
            self.count.index_copy_(0, taken, counts.index_select(0, won))
            self.last_use.index_fill_(0, taken, step)
            waiting = waiting[(least >= 0).index_fill_(0, served, False)]
        return Placed(rows, evicted)

    def _in_order(self, ids: Tensor, counts: Tensor, sets: Tensor) -> Tensor:
        """Returns indices [n] in the order of serving; buckets, which do not compete, follow each other."""
        order = torch.sort(ids).indices
        order = order.index_select(0, torch.sort(counts[order], descending=True, stable=True).indices)
        bucket = sets[:, 0].index_select(0, order) // self.geometry.bucket_sets
        return order.index_select(0, torch.sort(bucket, stable=True).indices)

    def _least(self, sets: Tensor, step: int, evict: bool) -> Tensor:
        """Returns the row that is worth least of each of sets [n, choices]: [n], -1 where none is to be taken."""
        rows = []
        for (part,) in _chunks(sets):
            counts = self._rows_of(self.count, part)
            taken = None if evict else counts > 0
            worth = self.worth.of(counts, self._rows_of(self.last_use, part), step)
            if taken is not None:
                worth.masked_fill_(taken, NEVER)
            where = worth.argmin(1)
            row = self._row(part, where)
            never = worth.gather(1, where.unsqueeze(1)).squeeze(1) == NEVER
            rows.append(row.masked_fill_(never | (self.last_use[row] == step), -1))
        return torch.cat(rows)

    def _serve(self, sets: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which of ids in order, with sets [n, choices] and least rows [n], get a row in a round, and which."""
        ways = self.geometry.ways
        picked, free = least // ways, torch.zeros_like(least)
        filling = ((least >= 0) & (self.count[least] == 0)).nonzero().squeeze(1)
        if len(filling):
            picked[filling], free[filling] = self._freest(sets.index_select(0, filling))
        served, rank = _first_of_each(picked, torch.where(least < 0, 0, (free + 1) // 2 + (free == 0)))
        taken = least.index_select(0, served)
        filling = (free.index_select(0, served) > 0).nonzero().squeeze(1)
        if len(filling):
            taken[filling] = self._nth_free(picked[served[filling]], rank[filling])
        return served, taken

    def _freest(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the set of [n, choices] that has most free rows [n], the first of equals, and how many."""
        picked, free = [], []
        for (part,) in _chunks(sets):
            is_free = self._rows_of(self.count, part) == 0
            most, where = is_free.view(*part.shape, self.geometry.ways).sum(2).max(1)
            free.append(most)
            picked.append(part.gather(1, where.unsqueeze(1)).squeeze(1))
        return torch.cat(picked), torch.cat(free)

    def _nth_free(self, sets: Tensor, rank: Tensor) -> Tensor:
        """Returns the row [n] of each of sets [n] that has `rank` [n] free ones before it."""
        rows = []
        for part, before in _chunks(sets, rank):
            is_free = self._rows_of(self.count, part.unsqueeze(1)) == 0
            is_nth = is_free & (is_free.cumsum(1) == before.unsqueeze(1) + 1)
            rows.append(part * self.geometry.ways + is_nth.view(torch.uint8).argmax(1))
        return torch.cat(rows)


def _chunks(*tensors: Tensor) -> Iterable[Sequence[Tensor]]:
    """Cuts tensors of equal length into pieces."""
    size = _CHUNK if tensors[0].device.type == "cpu" else _CUDA_CHUNK
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _first_of_each(groups: Tensor, quota: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first `quota` members of each group, and how many come before: groups [n], quota [n] -> [m], [m].

    `quota` is the same for all members of a group.
    """
    ordered, order = torch.sort(groups, stable=True)
    place = torch.arange(len(ordered), device=ordered.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    rank = place - torch.cummax(place * starts, 0).values
    among = (rank < quota[order]).nonzero().squeeze(1)
    return order[among], rank[among]
