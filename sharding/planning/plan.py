"""A plan: where each table's rows lie and what they cost in memory. Plain values; `planner.py` decides them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from shardrec.data_pipeline.sizes import readable
from shardrec.models.table_settings import Placement
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.id_map import id_map_bytes
from shardrec.sharding.planning.row_memory import described_memory, device_bytes, host_bytes
from shardrec.sharding.tables.live import physical_dim

FEW_RANKS = 4
"""Ranks that a report has columns for; of more it tells the shards of each table, and how the ranks compare."""

_BARS, _BAR_WIDTH = 6, 40


@dataclass(frozen=True)
class ShardPlan:
    """A rectangle of a table on one rank, in physical columns."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


def table_bytes(table: EmbeddingTable) -> int:
    """Bytes of a whole table with its state, without those in the memory of a GPU's host."""
    return device_bytes(table, table.num_embeddings, physical_dim(table))


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

    @cached_property
    def bytes_by_rank(self) -> dict[int, int]:
        """Bytes on each rank that holds anything of the table."""
        if self.placement == "data_parallel":
            return dict.fromkeys((s.rank for s in self.shards), replica_bytes(self.table))
        return self._by_rank(device_bytes)

    @cached_property
    def host_bytes_by_rank(self) -> dict[int, int]:
        """Bytes that each of these ranks has in the memory of its GPU's host."""
        return self._by_rank(host_bytes)

    def _by_rank(self, size_of: Callable[[EmbeddingTable, int, int], int]) -> dict[int, int]:
        sizes: dict[tuple[int, int], int] = {}  # thousands of row-wise shards have two sizes
        held: dict[int, int] = {}
        for s in self.shards:
            if (s.rows, s.columns) not in sizes:
                sizes[s.rows, s.columns] = size_of(self.table, s.rows, s.columns)
            held[s.rank] = held.get(s.rank, 0) + sizes[s.rows, s.columns]
        return held

    @property
    def largest_shard(self) -> int:
        """Bytes of the largest shard."""
        if self.placement == "data_parallel":
            return replica_bytes(self.table)
        return max(device_bytes(self.table, *shape) for shape in {(s.rows, s.columns) for s in self.shards})

    def bytes_on(self, rank: int) -> int:
        return self.bytes_by_rank.get(rank, 0)

    def rows_on(self, rank: int) -> int:
        """Rows of which the rank holds at least some columns."""
        return max((s.rows for s in self.shards if s.rank == rank), default=0)


def bytes_per_rank(tables: Iterable[TablePlan], world_size: int) -> list[int]:
    """What these tables take on each rank."""
    held = [0] * world_size
    for table in tables:
        for rank, size in table.bytes_by_rank.items():
            held[rank] += size
    return held


def id_map_share(tables: Iterable[EmbeddingTable], world_size: int) -> int:
    """Bytes of the id maps of dynamic tables on the rank that holds most of their buckets, which are dealt whole."""
    spaces = dict.fromkeys(t.dynamic for t in tables if t.dynamic)
    return sum(-(-ids.buckets.buckets // world_size) * (id_map_bytes(ids) // ids.buckets.buckets) for ids in spaces)


@dataclass(frozen=True)
class Plan:
    """All tables' placements for `world_size` ranks, `local_world_size` of them on each host.

    notes: what was asked for and means nothing there.
    """

    tables: dict[str, TablePlan]
    world_size: int
    local_world_size: int
    device: str
    memory_per_rank: int
    notes: tuple[str, ...] = ()

    @property
    def host_bytes(self) -> tuple[int, ...]:
        """Tables' bytes in the memory of each GPU host."""
        hosts = [0] * -(-self.world_size // self.local_world_size)
        for table in self.tables.values():
            for rank, size in table.host_bytes_by_rank.items():
                hosts[rank // self.local_world_size] += size
        return tuple(hosts)

    @property
    def bytes_per_rank(self) -> tuple[int, ...]:
        """Tables with their optimizer state, the gradient buffers of data-parallel ones, and id maps."""
        held = bytes_per_rank(self.tables.values(), self.world_size)
        return tuple(size + self.id_map_bytes for size in held)

    @property
    def id_map_bytes(self) -> int:
        """Of each rank, as if all had as many buckets as the one with most."""
        return id_map_share((p.table for p in self.tables.values()), self.world_size)

    def report(self) -> str:
        """A plain-text table: table, rows, dim, dtype, optimizer and placement, then what is where.

        That is rows and bytes on each rank; of more than `FEW_RANKS` ranks the shards of each table and the ranks that
        have them, and below the table how the ranks' memory compares.
        """
        text = self._by_rank() if self.world_size <= FEW_RANKS else self._by_table()
        return text + "".join(f"{line}\n" for line in (*self._memory_lines(), *self.notes))

    def _memory_lines(self) -> list[str]:
        """Which tables lie in host memory, and how much of it they take."""
        outside = [p.table for p in self.tables.values() if p.table.memory != "device"]
        if not outside:
            return []
        named = ", ".join(f"{t.name}: {described_memory(t)}" for t in outside)
        return [f"rows in host memory: {named}; {_span(self.host_bytes)} of each host"]

    def _by_rank(self) -> str:
        ranks = range(self.world_size)
        head = [*_DESCRIBED] + [f"rank {r}: rows" for r in ranks] + [f"rank {r}: bytes" for r in ranks]
        lines = [head]
        for plan in self.tables.values():
            rows = [f"{plan.rows_on(r):,}" for r in ranks]
            lines.append([*_described(plan), *rows, *(readable(plan.bytes_on(r)) for r in ranks)])
        total = [sum(p.rows_on(r) for p in self.tables.values()) for r in ranks]
        all_rows = sum(p.table.num_embeddings for p in self.tables.values())
        if self.id_map_bytes:
            maps = [
                "id maps",
                *[""] * (len(_DESCRIBED) - 1 + len(ranks)),
                *[readable(self.id_map_bytes) for _ in ranks],
            ]
            lines.append(maps)
        lines.append(["total", f"{all_rows:,}", "", "", "", "", *(f"{n:,}" for n in total)])
        lines[-1] += [readable(n) for n in self.bytes_per_rank]
        text = _aligned(lines, left={0, 3, 4, 5})
        return f"{text}\nmemory for tables: {readable(self.memory_per_rank)} a rank, {self.world_size} rank(s)\n"

    def _by_table(self) -> str:
        lines = [[*_DESCRIBED, "shards", "a shard", "in all", "on ranks"]]
        for plan in self.tables.values():
            held = plan.bytes_by_rank
            ranks = "all" if len(held) == self.world_size else in_runs(held)
            sizes = [readable(plan.largest_shard), readable(sum(held.values()))]
            lines.append([*_described(plan), f"{len(plan.shards):,}", *sizes, ranks])
        all_rows = sum(p.table.num_embeddings for p in self.tables.values())
        if share := self.id_map_bytes:
            maps = ["", f"{self.world_size:,}", readable(share), readable(share * self.world_size), "all"]
            lines.append(["id maps", "", "", "", "", *maps])
        lines.append(["total", f"{all_rows:,}", "", "", "", "", "", "", readable(sum(self.bytes_per_rank)), ""])
        return "\n".join([_aligned(lines, left={0, 3, 4, 5, 9}), *self._ranks_compared(), ""])

    def _ranks_compared(self) -> list[str]:
        """The ranks' memory: in all alike one line; else the extremes and a histogram."""
        held = self.bytes_per_rank
        least, most = min(held), max(held)
        there = f"of {readable(self.memory_per_rank)} for tables, {self.world_size} ranks"
        if readable(least) == readable(most):
            return [f"memory of a rank: {readable(most)} on all, {there}"]
        extremes = [f"{readable(size)} (rank {held.index(size)})" for size in (least, most)]
        lines = [f"memory of a rank: {extremes[0]} to {extremes[1]}, median {readable(int(median(held)))}, {there}"]
        groups: dict[int, list[int]] = {}
        for rank, size in enumerate(held):
            groups.setdefault(min(_BARS - 1, (size - least) * _BARS // (most - least)), []).append(rank)
        fullest = max(map(len, groups.values()))
        rows = [
            [
                _span(held[r] for r in ranks),
                "#" * max(1, len(ranks) * _BAR_WIDTH // fullest),
                f"{len(ranks)} rank(s): {in_runs(ranks)}",
            ]
            for _, ranks in sorted(groups.items())
        ]
        return lines + _aligned([["", *row] for row in rows], left={0, 1, 2, 3}).splitlines()


_DESCRIBED = ("table", "rows", "dim", "dtype", "optimizer", "placement")


def _described(plan: TablePlan) -> list[str]:
    t = plan.table
    assert t.optimizer is not None
    return [t.name, f"{t.num_embeddings:,}", str(t.embedding_dim), t.dtype, t.optimizer.name, plan.placement]


def _span(sizes: Iterable[int]) -> str:
    """`9.6 GiB to 10.3 GiB`, or one of them where they read alike."""
    found = sorted(sizes)
    return " to ".join(dict.fromkeys((readable(found[0]), readable(found[-1]))))


def in_runs(ranks: Iterable[int], most: int = 6) -> str:
    """`0-3, 7`; of more than `most` runs the first ones."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    said = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:most]]
    return ", ".join(said + ["..."] * (len(runs) > most))


def _aligned(lines: Sequence[Sequence[str]], left: set[int]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
