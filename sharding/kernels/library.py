"""The library's functions take tensors; its structs are those of `rows.h`."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.models.kernels.threads import kernel_threads
from shardrec.sharding.kernels.build import ROWS

_NO_MEMORY = -(1 << 63)

KINDS = ("sgd", "adagrad", "rowwise_adagrad", "rmsprop", "adam", "ftrl")


class Rule(ctypes.Structure):
    """A rule of rows, as `rows.h` says."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("by_frequency", ctypes.c_int32),
        ("of_summed_loss", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("learning_rate", "weight_decay", "eps", "a", "b", "c")),
        ("corrections", ctypes.c_int64),
        ("of_mean", ctypes.c_void_p),
        ("of_square", ctypes.c_void_p),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "first", "second", "per_row", "samples")),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("half", ctypes.c_int32),
        ("rounds", ctypes.c_int32),
        ("key", ctypes.c_uint64),
        ("first_row", ctypes.c_int64),
        ("first_column", ctypes.c_int64),
        ("rule", Rule),
    )


class _Feature(ctypes.Structure):
    _fields_ = (("table", ctypes.c_int64), ("column", ctypes.c_int64))


class _Batch(ctypes.Structure):
    _fields_ = (
        ("features", ctypes.c_int64),
        ("bags", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ids", "offsets", "scale")),
        ("stride", ctypes.c_int64),
    )


@cache
def library() -> Any:
    """Returns the loaded library, or None where there is none."""
    pointer, whole, number, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32
    functions: dict[str, list[Any]] = {
        "rows_pool": [*[pointer] * 4, threads],
        "rows_update": [pointer, whole, pointer, pointer, pointer, number, number, threads],
        "rows_sum": [pointer, whole, whole, *[pointer] * 5],
        "rows_update_all": [pointer, pointer, whole, whole, number, number, threads],
        "ids_distinct": [whole, pointer, pointer, whole, *[pointer] * 4, threads],
        "ids_find": [pointer, pointer, whole, pointer, threads],
        "ids_observe": [*[pointer] * 3, threads],
        "fresh_draw": [pointer, pointer, whole, pointer, threads],
        "fresh_renew": [pointer, threads],
        "kernel_short_of": [],
    }
    return ROWS.load(functions, returned=whole)


class KernelMemoryError(UserError, MemoryError):
    """A kernel got too little memory to work in, and has changed nothing."""


def checked(returned: int, what: str) -> int:
    """Returns what a function of the library did, of `what`. Raises KernelMemoryError where memory was short."""
    if returned == _NO_MEMORY:
        short = library().kernel_short_of()
        much = f"{readable(short)} more memory" if short else "more memory"
        raise KernelMemoryError(
            f"{what} needs {much}, which is not there; choose smaller batches, or fewer workers here"
        )
    return returned


@dataclass(frozen=True)
class TableMemory:
    """A table's memory: weight [rows, columns], fp32 or fp16, and its state; all of it stays where it is.

    first, second: fp32 [rows, columns], or [rows] for row-wise AdaGrad; per_row, samples: fp32 [rows].
    """

    weight: Tensor
    rule: Rule
    first: Tensor | None = None
    second: Tensor | None = None
    per_row: Tensor | None = None
    samples: Tensor | None = None
    keep: tuple[Tensor, ...] = field(default=())  # that the rule points to


class RowKernel:
    """The kernel looks up and updates rows of several tables. feature_tables: of each feature the index of its table.

    A batch has ids [T], offsets [F B + 1], and scale [T] or None, of any precision and stride: feature f's bag b has
    the ids from offsets[f B + b] on. Raises IndexError for an id that its table has no row for; nothing changes then.
    """

    def __init__(self, tables: Sequence[TableMemory], feature_tables: Sequence[int]) -> None:
        self.library = library()
        self._memory = tuple(tables)  # so that it lives
        self._tables = (_Table * len(tables))(*map(_struct, tables))
        columns = [tables[t].weight.shape[1] for t in feature_tables]
        self.columns = sum(columns)
        starts = [sum(columns[:f]) for f in range(len(columns))]
        self._features = (_Feature * len(columns))(*(_Feature(*x) for x in zip(feature_tables, starts, strict=True)))
        self._features_of = {t: [f for f, of in enumerate(feature_tables) if of == t] for t in range(len(tables))}

    def round_by(self, table: int, key: int, row: int, column: int) -> None:
        """Lets updates of an fp16 table round stochastically, by a key of 64 bits; row, column: where the shard is."""
        struct = self._tables[table]
        struct.rounds, struct.key, struct.first_row, struct.first_column = 1, key, row, column

    def pool(self, ids: Tensor, offsets: Tensor, scale: Tensor | None) -> Tensor:
        """Returns the bags' sums, [B, all features' columns] fp32."""
        batch = self._batch(ids, offsets, scale)
        out = torch.empty(batch.bags, self.columns)
        threads = kernel_threads()
        bad = self.library.rows_pool(self._tables, self._features, ctypes.byref(batch), out.data_ptr(), threads)
        self._check(checked(bad, f"looking {ids.numel():,} ids up"), ids)
        return out

    def update(
        self, gradient: Tensor, ids: Tensor, offsets: Tensor, scale: Tensor | None, factor: float, loss_weight: float
    ) -> None:
        """Updates all rows that a batch names by the gradient [B, all features' columns] fp32 of its bags' sums."""
        gradient, batch = gradient.float().contiguous(), self._batch(ids, offsets, scale)
        bad = self.library.rows_update(
            *(self._tables, len(self._tables), self._features, ctypes.byref(batch), gradient.data_ptr()),
            *(factor, loss_weight, kernel_threads()),
        )
        self._check(checked(bad, f"updating the rows of {ids.numel():,} ids"), ids)

    def sum(
        self, table: int, gradient: Tensor, ids: Tensor, offsets: Tensor, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the distinct rows [n] of a table that a batch names, ascending, and their gradients [n, columns]."""
        gradient, batch = gradient.float().contiguous(), self._batch(ids, offsets, scale)
        starts = offsets[:: batch.bags] if batch.bags else offsets.new_zeros(len(self._features) + 1)
        most = sum(int(starts[f + 1] - starts[f]) for f in self._features_of[table])
        rows, sums = torch.empty(most, dtype=torch.int64), torch.empty(most, self._memory[table].weight.shape[1])
        found = self.library.rows_sum(
            *(self._tables, len(self._tables), table, self._features, ctypes.byref(batch), gradient.data_ptr()),
            *(rows.data_ptr(), sums.data_ptr()),
        )
        self._check(-1 - checked(found, f"summing the gradients of {ids.numel():,} ids"), ids)
        return rows[:found], sums[:found]

    def update_all(self, table: int, gradient: Tensor, named: int | None, factor: float, loss_weight: float) -> None:
        """Updates a table by a gradient [rows, >= columns]: all rows, or those with no 0 in its column `named`."""
        gradient, column = gradient.float().contiguous(), -1 if named is None else named
        done = self.library.rows_update_all(
            *(ctypes.byref(self._tables[table]), gradient.data_ptr(), gradient.shape[1], column),
            *(factor, loss_weight, kernel_threads()),
        )
        checked(done, f"updating {len(gradient):,} rows")

    def _batch(self, ids: Tensor, offsets: Tensor, scale: Tensor | None) -> _Batch:
        ids, offsets = (x.to(torch.int64).contiguous() for x in (ids, offsets))
        scale = None if scale is None else scale.to(torch.float32).contiguous()
        bags = (offsets.numel() - 1) // len(self._features)
        scales = None if scale is None else scale.data_ptr()
        batch = _Batch(len(self._features), bags, ids.data_ptr(), offsets.data_ptr(), scales, self.columns)
        batch.memory = ids, offsets, scale  # so that what was copied lives as long
        return batch

    def _check(self, bad: int, ids: Tensor) -> None:
        if bad >= 0:
            rows = sorted({len(table.weight) for table in self._memory})
            raise IndexError(
                f"id {int(ids[bad])} at place {bad} of a batch, of a table that has no such row (of {rows})"
            )


def _struct(table: TableMemory) -> _Table:
    def at(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    rows, columns = table.weight.shape
    half = int(table.weight.dtype == torch.float16)
    places = (at(x) for x in (table.weight, table.first, table.second, table.per_row, table.samples))
    return _Table(*places, rows, columns, half, 0, 0, 0, 0, table.rule)
