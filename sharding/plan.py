"""A plan: where each table's rows lie and what they cost in memory. Plain values; `planner.py` decides them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from models.inputs import EmbeddingTable, Placement
from sharding.optimizers import row_update
from sharding.tables import DTYPES, physical_dim


@dataclass(frozen=True)
class ShardPlan:
    """A rectangle of a table on one rank, in physical columns."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


def shard_bytes(table: EmbeddingTable, rows: int, columns: int) -> int:
    """Bytes of weights and optimizer state for so many rows and physical columns of a table."""
    states = row_update(table).state_shapes(rows, columns).values()
    return rows * columns * DTYPES[table.dtype].itemsize + 4 * sum(prod(shape) for shape in states)


def table_bytes(table: EmbeddingTable) -> int:
    """Bytes of a whole table with its state."""
    return shard_bytes(table, table.num_embeddings, physical_dim(table))


def replica_bytes(table: EmbeddingTable) -> int:
    """Bytes of a data-parallel replica: the table, its state and the buffer in which gradients are summed."""
    return table_bytes(table) + 4 * table.num_embeddings * (physical_dim(table) + 1)


@dataclass(frozen=True)
class TablePlan:
    """One table's placement. `table.optimizer` is resolved. A data-parallel table has one shard on every rank."""

    table: EmbeddingTable
    placement: Placement
    shards: tuple[ShardPlan, ...]

    @property
    def name(self) -> str:
        return self.table.name

    def bytes_on(self, rank: int) -> int:
        if self.placement == "data_parallel":
            return replica_bytes(self.table)
        return sum(shard_bytes(self.table, s.rows, s.columns) for s in self.shards if s.rank == rank)

    def rows_on(self, rank: int) -> int:
        """Rows of which the rank holds at least some columns."""
        return max((s.rows for s in self.shards if s.rank == rank), default=0)


@dataclass(frozen=True)
class Plan:
    """All tables' placements for `world_size` ranks, `local_world_size` of them on each host."""

    tables: dict[str, TablePlan]
    world_size: int
    local_world_size: int
    device: str
    memory_per_rank: int

    @property
    def bytes_per_rank(self) -> tuple[int, ...]:
        """Tables with their optimizer state, and the gradient buffers of data-parallel ones."""
        return tuple(sum(t.bytes_on(r) for t in self.tables.values()) for r in range(self.world_size))

    def report(self) -> str:
        """A plain-text table: table, rows, dim, dtype, optimizer, placement, then rows and bytes on each rank."""
        ranks = range(self.world_size)
        head = ["table", "rows", "dim", "dtype", "optimizer", "placement"]
        lines = [head + [f"rank {r}: rows" for r in ranks] + [f"rank {r}: bytes" for r in ranks]]
        for plan in self.tables.values():
            t = plan.table
            assert t.optimizer is not None
            described = [t.name, f"{t.num_embeddings:,}", str(t.embedding_dim), t.dtype, t.optimizer.name]
            rows = [f"{plan.rows_on(r):,}" for r in ranks]
            lines.append([*described, plan.placement, *rows, *(readable(plan.bytes_on(r)) for r in ranks)])
        total = [sum(p.rows_on(r) for p in self.tables.values()) for r in ranks]
        all_rows = sum(p.table.num_embeddings for p in self.tables.values())
        lines.append(["total", f"{all_rows:,}", "", "", "", "", *(f"{n:,}" for n in total)])
        lines[-1] += [readable(n) for n in self.bytes_per_rank]
        text = _aligned(lines, left={0, 3, 4, 5})
        return f"{text}\nmemory for tables: {readable(self.memory_per_rank)} a rank, {self.world_size} rank(s)\n"


def _aligned(lines: Sequence[Sequence[str]], left: set[int]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def readable(count: int) -> str:
    """Bytes with a binary unit: `1.5 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
