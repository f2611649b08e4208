"""A table is what is declared of it, how its rows are stored, and where they live.

FBGEMM's kernels store a table with its dim rounded up to four; the columns beyond `embedding_dim` are 0 and stay 0. Our
own kernel needs no more than there is. How a table is stored is a matter of its optimizer, whatever its placement and
whichever kernel works on it.
Everything that names rows and columns to the outside (checkpoints) means logical ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}
KERNEL_COLUMNS = 4  # FBGEMM's kernels read rows in vectors of four
COUNTED_AT_ONCE = 1 << 24  # numbers, of which a GPU makes as many bytes
SCALE_BYTES = 8  # of an int8 row: its scale and its bias, fp32


def is_fused(optimizer: TableOptimizer) -> bool:
    """Says whether FBGEMM's kernels do exactly this, on every device."""
    plain = optimizer.weight_decay == 0 and optimizer.decay == "batch" and optimizer.momentum == 0
    return plain and optimizer.name in ("sgd", "adagrad", "rowwise_adagrad")


def is_rounded(table: EmbeddingTable) -> bool:
    """Says whether a table's rows are rounded stochastically."""
    return table.dtype == "fp16" and table.rounding == "stochastic" and not table.frozen


def starts_at_zero(table: EmbeddingTable) -> bool:
    """Says whether fresh rows are 0 in all columns: those of linear weights are."""
    return table.zero_columns >= table.embedding_dim


def physical_dim(table: EmbeddingTable) -> int:
    """Returns the columns that a table's kernel stores, in every placement. Without an optimizer it is as if fused."""
    if table.frozen or (table.optimizer and not is_fused(table.optimizer)):
        return table.embedding_dim
    return -(-table.embedding_dim // KERNEL_COLUMNS) * KERNEL_COLUMNS


def row_bytes(table: EmbeddingTable, columns: int) -> int:
    """Returns the bytes of the weights of a row of so many physical columns."""
    return columns * DTYPES[table.dtype].itemsize + (SCALE_BYTES if table.dtype == "int8" else 0)


@dataclass(frozen=True)
class TableShard:
    """A shard is a rectangle of a table that this rank holds: views of the kernel's live memory.

    row, column: where it starts. tensors: `weight` [rows, physical columns] and the optimizer's state by name, each
    [rows, physical columns] or [rows].
    """

    row: int
    column: int
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """Returns the weights [rows, physical columns]."""
        return self.tensors["weight"]


@dataclass(frozen=True)
class LiveTable:
    """A live table is this rank's part of one table. replicated: every rank holds all of it."""

    table: EmbeddingTable
    shards: tuple[TableShard, ...]
    replicated: bool = False

    @property
    def name(self) -> str:
        """Returns the table's name."""
        return self.table.name

    def logical(self, shard: TableShard, tensor: str) -> Tensor:
        """Returns a view of a shard's tensor without its padding."""
        stored = shard.tensors[tensor]
        return stored[:, : self.table.embedding_dim - shard.column] if stored.dim() == 2 else stored

    def zeros(self) -> int:
        """Returns how many weights of this rank's shards are exactly 0."""
        weights = [self.logical(shard, "weight") for shard in self.shards]
        return sum(w.numel() - count_nonzero(w) for w in weights)


def count_nonzero(tensor: Tensor) -> int:
    """Returns how many numbers of [rows, ...] are not 0, in parts: on a GPU torch makes a byte for each."""
    rows = max(1, COUNTED_AT_ONCE // max(1, tensor[:1].numel()))
    return int(sum(torch.count_nonzero(part) for part in tensor.split(rows)))


def merged(parts: Iterable[LiveTable]) -> dict[str, LiveTable]:
    """Returns tables by name, each with the shards of all its parts (several of a column-wise one)."""
    tables: dict[str, LiveTable] = {}
    for part in parts:
        known = tables.get(part.name)
        tables[part.name] = part if known is None else replace(known, shards=known.shards + part.shards)
    return tables
