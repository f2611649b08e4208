"""Tables as the layers of sharding see them: what is declared, and where the live rows are.

A kernel stores a table with its dim rounded up to four, which FBGEMM needs; the columns beyond `embedding_dim` are 0
and stay 0. Everything that names rows and columns to the outside (plans, checkpoints) means logical ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

import torch
from torch import Tensor

from models.inputs import DenseFeatures, EmbeddingTable, Input, TableOptimizer

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
KERNEL_COLUMNS = 4  # FBGEMM's kernels read rows in vectors of four


def physical_dim(embedding_dim: int) -> int:
    """Columns that a kernel stores for `embedding_dim` logical ones."""
    return -(-embedding_dim // KERNEL_COLUMNS) * KERNEL_COLUMNS


def module_name(table: str) -> str:
    """A table's name as a module's: without dots."""
    return quote(table, safe="/ ").replace(".", "%2E")


def declared_tables(inputs: Mapping[str, Input], default: TableOptimizer | None = None) -> dict[str, EmbeddingTable]:
    """All tables of a model's inputs by name, in order of first use; those without an optimizer get `default`."""
    found: dict[str, EmbeddingTable] = {}
    for given in inputs.values():
        for table in () if isinstance(given, DenseFeatures) else given.tables.values():
            known = found.setdefault(table.name, table)
            if known != table:
                raise ValueError(f"two tables are called {table.name!r}: {known} and {table}")
    return {n: t if t.optimizer else replace(t, optimizer=default) for n, t in found.items()}


@dataclass(frozen=True)
class TableShard:
    """A rectangle of a table that this rank holds: views of the kernel's live memory.

    row, column: where it starts. tensors: `weight` [rows, physical columns] and, as the optimizer has them,
    `accumulator` [rows] or [rows, physical columns].
    """

    row: int
    column: int
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]


@dataclass(frozen=True)
class LiveTable:
    """This rank's part of one table. `replicated`: every rank holds all of it."""

    table: EmbeddingTable
    shards: tuple[TableShard, ...]
    replicated: bool = False

    @property
    def name(self) -> str:
        return self.table.name

    def logical(self, shard: TableShard, tensor: str) -> Tensor:
        """A shard's tensor without its padding: a view."""
        held = shard.tensors[tensor]
        return held[:, : self.table.embedding_dim - shard.column] if held.dim() == 2 else held


def merged(parts: Iterable[LiveTable]) -> dict[str, LiveTable]:
    """Parts of tables (several shards of a column-wise one) by table name."""
    found: dict[str, LiveTable] = {}
    for part in parts:
        known = found.get(part.name)
        found[part.name] = part if known is None else replace(known, shards=known.shards + part.shards)
    return found
