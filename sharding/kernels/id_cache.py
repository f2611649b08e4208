"""The kernel of set-associative caches of ids finds and places ids as `dynamic/set_cache.py` does."""

import ctypes

import torch
from torch import Tensor

from shardrec.sharding.kernels.library import library

_POLICIES = ("lfu", "lru", "age")


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "count", "last_use")),
        ("bucket_sets", ctypes.c_int64),
        ("ways", ctypes.c_int64),
        ("policy", ctypes.c_int32),
        ("age", ctypes.c_int64),
    )


class IdCacheKernel:
    """The kernel works in the memory of a cache's columns, [rows] int64 each, which stays where it is."""

    def __init__(
        self, ids: Tensor, count: Tensor, last_use: Tensor, bucket_sets: int, ways: int, policy: str, age: int | None
    ) -> None:
        self._memory = ids, count, last_use  # so that it lives
        places = (column.data_ptr() for column in self._memory)
        self._cache = _Cache(*places, bucket_sets, ways, _POLICIES.index(policy), -1 if age is None else age)

    def find(self, ids: Tensor, sets: Tensor) -> Tensor:
        """Returns the rows of ids [n] int64 by their sets [n, choices]: [n], -1 for those that have none."""
        ids, sets, rows = ids.contiguous(), sets.contiguous(), torch.empty_like(ids)
        library().ids_find(
            *(ctypes.byref(self._cache), ids.data_ptr(), sets.data_ptr(), *sets.shape, rows.data_ptr()),
            torch.get_num_threads(),
        )
        return rows

    def place(self, ids: Tensor, counts: Tensor, sets: Tensor, step: int, *, evict: bool) -> tuple[Tensor, Tensor]:
        """Gives rows to distinct new ids [n], and says which of them another id lost: rows [n], evicted [n] bool."""
        ids, counts, sets = ids.contiguous(), counts.contiguous(), sets.contiguous()
        rows, evicted = torch.empty_like(ids), torch.empty_like(ids, dtype=torch.bool)
        library().ids_place(
            *(ctypes.byref(self._cache), ids.data_ptr(), counts.data_ptr(), sets.data_ptr(), *sets.shape),
            *(step, evict, rows.data_ptr(), evicted.data_ptr(), torch.get_num_threads()),
        )
        return rows, evicted
