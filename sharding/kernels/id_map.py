"""The kernel of id maps finds ids and gives them rows as `dynamic/id_map.py` does, and says which are distinct."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry
from shardrec.models.kernels.threads import kernel_threads
from shardrec.sharding.kernels.library import checked, library

_POLICIES = ("lfu", "lru", "age")


class CacheMemory(ctypes.Structure):
    """A cache's memory, as `ids.h` says."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "count", "last_use")),
        ("ways", ctypes.c_int64),
        ("age", ctypes.c_int64),
        ("policy", ctypes.c_int32),
    )


class _IdMap(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("buckets", "first", "own", "bucket_sets")),
        ("rows", CacheMemory),
        ("candidates", CacheMemory),
        ("admitted", ctypes.c_void_p),
        ("fillers", ctypes.c_void_p),
        ("after", ctypes.c_int64),
    )


class _Arrivals(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "counts", "admitted")),
        *((name, ctypes.c_int64) for name in ("n", "step")),
        ("fills", ctypes.c_int32),
    )


class _Outcome(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("rows", "fresh_rows", "fresh_ids", "counters"))


def cache_memory(columns: Sequence[Tensor], ways: int, evict: str, age: int | None) -> CacheMemory:
    """Returns a cache's columns ids, count and last_use, [rows] int64 each, which stay where they are."""
    return CacheMemory(*(c.data_ptr() for c in columns), ways, -1 if age is None else age, _POLICIES.index(evict))


class IdMapKernel:
    """The kernel works in the memory of an id map's `buckets`, of which it keeps no Python object alive.

    admitted: [rows] int64. fillers: [buckets] int64, ids of other buckets.
    """

    def __init__(
        self,
        geometry: BucketGeometry,
        buckets: range,
        rows: CacheMemory,
        candidates: CacheMemory | None,
        admitted: Tensor,
        fillers: Tensor,
        after: int,
    ) -> None:
        self._map = _IdMap(
            *(geometry.buckets, buckets.start, len(buckets), geometry.bucket_sets, rows, candidates or CacheMemory()),
            *(admitted.data_ptr(), fillers.data_ptr(), after),
        )

    def find(self, ids: Tensor) -> Tensor:
        """Returns the table's rows of ids [n] int64: [n], -1 for those that have none."""
        ids, threads = ids.contiguous(), kernel_threads()
        rows = torch.empty_like(ids)
        bad = library().ids_find(ctypes.byref(self._map), ids.data_ptr(), len(ids), rows.data_ptr(), threads)
        self._check(bad, ids)
        return rows

    def observe(
        self, ids: Tensor, counts: Tensor, admitted: Tensor | None, step: int, *, fills: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[int]]:
        """Does what `IdMap.observe` says, or `fill`; returns rows [n], fresh rows and ids [m], growth of counters [4].

        admitted: [n] bool, which of the new ids may have a row; None: those that occurred often enough.
        """
        ids, counts, counters = ids.contiguous(), counts.contiguous(), (ctypes.c_int64 * 4)()
        rows, fresh_rows, fresh_ids = (torch.empty_like(ids) for _ in range(3))
        drawn = None if admitted is None else admitted.contiguous().data_ptr()
        arrivals = _Arrivals(ids.data_ptr(), counts.data_ptr(), drawn, len(ids), step, fills)
        outcome = _Outcome(*(x.data_ptr() for x in (rows, fresh_rows, fresh_ids)), ctypes.addressof(counters))
        kernel = library().ids_observe
        pointers = map(ctypes.byref, (self._map, arrivals, outcome))
        fresh = checked(kernel(*pointers, kernel_threads()), f"giving rows to {len(ids):,} ids")
        self._check(-1 - fresh, ids)
        return rows, fresh_rows[:fresh], fresh_ids[:fresh], list(counters)

    def _check(self, bad: int, ids: Tensor) -> None:
        if bad >= 0:
            raise IndexError(f"id {int(ids[bad])} at place {bad} is of a bucket that this part of the id map has not")


def distinct_ids(buckets: int, ids: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns what `dynamic/distinct.py` says: distinct ids, counts, inverse, starts."""
    ids, times = ids.contiguous(), None if times is None else times.contiguous()
    found, counts, inverse = (torch.empty_like(ids) for _ in range(3))
    starts = ids.new_empty(buckets + 1)
    size = library().ids_distinct(
        *(buckets, ids.data_ptr(), None if times is None else times.data_ptr(), len(ids)),
        *(x.data_ptr() for x in (found, counts, inverse, starts)),
        kernel_threads(),
    )
    size = checked(size, f"finding the distinct of {len(ids):,} ids")
    return found[:size], counts[:size], inverse, starts
