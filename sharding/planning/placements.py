"""Placements are plain constructors of `TablePlan`, beside what a table is too small for."""

from collections.abc import Iterator

from shardrec.models.table_settings import Placement
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.plan import ShardPlan, TablePlan
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import KERNEL_COLUMNS, physical_dim

CUT_COLUMNS: frozenset[Placement] = frozenset({"column_wise", "grid"})
OF_HOSTS: frozenset[Placement] = frozenset({"table_row_wise", "grid"})
"""Placements that cut a table's columns, and those that cut rows within a host."""


def decays_whole(table: EmbeddingTable) -> bool:
    """Says whether every step updates all rows, which only replicas can."""
    return table.optimizer is not None and table.optimizer.decay == "table" and not table.frozen


def asked_placement(table: EmbeddingTable, topology: Topology) -> Placement | None:
    """Returns the placement asked for, or what comes closest where that is impossible; None: free to choose.

    Rows in host memory are spread, if nothing is asked, so that they are read over the buses of all GPUs.
    """
    if decays_whole(table):
        return "data_parallel"
    ranks = topology.world_size
    placement = _within_hosts(table, topology) if table.placement in OF_HOSTS else table.placement
    if placement == "row_wise" and not has_row_blocks(table, ranks):
        return "table_wise"
    if placement == "column_wise" and physical_dim(table) <= KERNEL_COLUMNS:
        return "table_wise"
    if placement is None and table.memory != "device" and has_row_blocks(table, ranks):
        return "row_wise"
    return placement


def _within_hosts(table: EmbeddingTable, topology: Topology) -> Placement:
    """Returns what becomes of `table_row_wise` and `grid`: rows are cut within a host, columns are dealt to hosts."""
    local = topology.local_world_size
    if not topology.several_alike:  # rows are dealt to all ranks
        return "row_wise"
    has_columns = table.placement == "grid" and physical_dim(table) > KERNEL_COLUMNS
    if local == 1 or not has_row_blocks(table, local):
        return "column_wise" if has_columns else "table_wise"
    return "grid" if has_columns else "table_row_wise"


def cuts_columns(table: EmbeddingTable) -> bool:
    """Says whether a table's columns may be cut: enough of them, and a rule of each column by itself."""
    assert table.optimizer is not None
    return physical_dim(table) > KERNEL_COLUMNS and table.optimizer.name != "rowwise_adagrad" and not table.frozen


def has_row_blocks(table: EmbeddingTable, ranks: int) -> bool:
    """Says whether equal blocks of rows, the last one shorter, leave no rank without a row, which TorchRec fails on."""
    block = -(-table.num_embeddings // ranks)
    return (ranks - 1) * block < table.num_embeddings


def column_width(columns: int, parts: int) -> int:
    """Returns the columns of each shard, as wide as still gives every one of `parts` ranks or hosts one.

    They are equal multiples of four; where `columns` is not one (our own kernel) the last shard is narrower.
    """
    if columns % KERNEL_COLUMNS:
        return -(-columns // parts)
    quads = columns // KERNEL_COLUMNS
    counts = [n for n in range(1, quads + 1) if quads % n == 0]
    return columns // next((n for n in counts if n >= parts), quads)


def whole_table(table: EmbeddingTable, rank: int) -> TablePlan:
    """Puts all of a table on one rank."""
    return TablePlan(table, "table_wise", (_whole(table, rank),))


def replicas(table: EmbeddingTable, world_size: int) -> TablePlan:
    """Puts all of a table on every rank."""
    return TablePlan(table, "data_parallel", tuple(_whole(table, r) for r in range(world_size)))


def row_blocks(table: EmbeddingTable, world_size: int) -> TablePlan:
    """Deals equal blocks of rows to the ranks, the last one shorter."""
    return TablePlan(table, "row_wise", tuple(_rows(table, range(world_size), 0, physical_dim(table))))


def column_blocks(table: EmbeddingTable, world_size: int, first: int) -> TablePlan:
    """Deals blocks of columns to the ranks in turn, from rank `first` on."""
    shards = (
        ShardPlan((first + i) % world_size, 0, start, table.num_embeddings, wide)
        for i, (start, wide) in enumerate(_columns(table, world_size))
    )
    return TablePlan(table, "column_wise", tuple(shards))


def host_row_blocks(table: EmbeddingTable, topology: Topology, host: int) -> TablePlan:
    """Deals equal blocks of rows to the ranks of one host, the last one shorter."""
    return TablePlan(table, "table_row_wise", tuple(_rows(table, topology.ranks_of(host), 0, physical_dim(table))))


def grid_blocks(table: EmbeddingTable, topology: Topology, first: int) -> TablePlan:
    """Deals blocks of columns to the hosts in turn, from host `first` on, and rows of each to the ranks there."""
    shards = (
        shard
        for i, (start, wide) in enumerate(_columns(table, topology.hosts))
        for shard in _rows(table, topology.ranks_of((first + i) % topology.hosts), start, wide)
    )
    return TablePlan(table, "grid", tuple(shards))


def _whole(table: EmbeddingTable, rank: int) -> ShardPlan:
    return ShardPlan(rank, 0, 0, table.num_embeddings, physical_dim(table))


def _rows(table: EmbeddingTable, ranks: range, column: int, columns: int) -> Iterator[ShardPlan]:
    block = -(-table.num_embeddings // len(ranks))
    for i, rank in enumerate(ranks):
        yield ShardPlan(rank, i * block, column, min(block, table.num_embeddings - i * block), columns)


def _columns(table: EmbeddingTable, parts: int) -> list[tuple[int, int]]:
    """Returns the first column and the width of each block of columns."""
    columns = physical_dim(table)
    width = column_width(columns, parts)
    return [(start, min(width, columns - start)) for start in range(0, columns, width)]
