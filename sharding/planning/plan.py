"""A plan says where each table's rows lie and what they take of memory.

These are plain values: `planner.py` decides them, `plan_report.py` prints them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from shardrec.models.table_settings import Placement
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.id_map import id_map_bytes
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.row_memory import device_bytes, host_bytes
from shardrec.sharding.tables.live import physical_dim


@dataclass(frozen=True)
class ShardPlan:
    """A shard is a rectangle of a table on one rank, in physical columns."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


def table_bytes(table: EmbeddingTable) -> int:
    """Returns the bytes of a whole table with its state, without those in the memory of a GPU's host."""
    return device_bytes(table, table.num_embeddings, physical_dim(table))


def replica_bytes(table: EmbeddingTable) -> int:
    """Returns the bytes of a data-parallel replica: table, state, and the buffer in which gradients are summed."""
    return table_bytes(table) + 4 * table.num_embeddings * (physical_dim(table) + 1)


@dataclass(frozen=True)
class TablePlan:
    """A table's plan is its placement and its shards; a data-parallel table has one shard on every rank.

    table: with its optimizer, the run's default where it names none.
    """

    table: EmbeddingTable
    placement: Placement
    shards: tuple[ShardPlan, ...]

    @property
    def name(self) -> str:
        """Returns the table's name."""
        return self.table.name

    @cached_property
    def bytes_by_rank(self) -> dict[int, int]:
        """Returns the table's bytes by rank, for the ranks that have anything of it; without those in host memory."""
        if self.placement == "data_parallel":
            return dict.fromkeys((s.rank for s in self.shards), replica_bytes(self.table))
        return self._by_rank(device_bytes)

    @cached_property
    def host_bytes_by_rank(self) -> dict[int, int]:
        """Returns the bytes that each of these ranks has in the memory of its GPU's host."""
        return self._by_rank(host_bytes)

    def _by_rank(self, size_of: Callable[[EmbeddingTable, int, int], int]) -> dict[int, int]:
        sizes: dict[tuple[int, int], int] = {}  # thousands of row-wise shards have two sizes
        by_rank: dict[int, int] = {}
        for s in self.shards:
            if (s.rows, s.columns) not in sizes:
                sizes[s.rows, s.columns] = size_of(self.table, s.rows, s.columns)
            by_rank[s.rank] = by_rank.get(s.rank, 0) + sizes[s.rows, s.columns]
        return by_rank

    @property
    def largest_shard(self) -> int:
        """Returns the largest shard's bytes, without those in host memory."""
        if self.placement == "data_parallel":
            return replica_bytes(self.table)
        return max(device_bytes(self.table, *shape) for shape in {(s.rows, s.columns) for s in self.shards})

    def bytes_on(self, rank: int) -> int:
        """Returns the table's bytes on a rank, without those in host memory."""
        return self.bytes_by_rank.get(rank, 0)

    def rows_on(self, rank: int) -> int:
        """Returns the number of rows of which the rank has at least some columns."""
        return max((s.rows for s in self.shards if s.rank == rank), default=0)


def bytes_per_rank(tables: Iterable[TablePlan], world_size: int) -> list[int]:
    """Returns what tables take on each rank, without what they take of host memory."""
    by_rank = [0] * world_size
    for table in tables:
        for rank, size in table.bytes_by_rank.items():
            by_rank[rank] += size
    return by_rank


def id_map_share(tables: Iterable[EmbeddingTable], world_size: int) -> int:
    """Returns the bytes of dynamic tables' id maps on the rank with most of their buckets, which are dealt whole."""
    spaces = dict.fromkeys(t.dynamic for t in tables if t.dynamic)
    return sum(-(-ids.geometry.buckets // world_size) * (id_map_bytes(ids) // ids.geometry.buckets) for ids in spaces)


@dataclass(frozen=True)
class Plan:
    """A plan has all tables' placements for `world_size` ranks, `local_world_size` of them on each host.

    memory_per_rank: what a rank has for tables, in bytes. notes: what was asked for and means nothing there. exchange:
    the numbers that vectors travel as.
    """

    tables: dict[str, TablePlan]
    world_size: int
    local_world_size: int
    device: str
    memory_per_rank: int
    notes: tuple[str, ...] = ()
    exchange: Exchange = "fp32"

    @property
    def host_bytes(self) -> tuple[int, ...]:
        """Returns the tables' bytes in the memory of each GPU's host, by host."""
        hosts = [0] * -(-self.world_size // self.local_world_size)
        for table in self.tables.values():
            for rank, size in table.host_bytes_by_rank.items():
                hosts[rank // self.local_world_size] += size
        return tuple(hosts)

    @property
    def bytes_per_rank(self) -> tuple[int, ...]:
        """Returns the bytes of each rank: tables, optimizer state, buffers of data-parallel gradients, id maps."""
        of_tables = bytes_per_rank(self.tables.values(), self.world_size)
        return tuple(size + self.id_map_bytes for size in of_tables)

    @property
    def id_map_bytes(self) -> int:
        """Returns the bytes of id maps on each rank, as if all had as many buckets as the one with most."""
        return id_map_share((p.table for p in self.tables.values()), self.world_size)
