"""Placements are plain constructors of `TablePlan`, beside what a table is too small for."""

from shardrec.models.table_settings import Placement
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.plan import ShardPlan, TablePlan
from shardrec.sharding.tables.live import KERNEL_COLUMNS, physical_dim


def decays_whole(table: EmbeddingTable) -> bool:
    """Says whether every step updates all rows, which only replicas can."""
    return table.optimizer is not None and table.optimizer.decay == "table" and not table.frozen


def asked_placement(table: EmbeddingTable, world_size: int) -> Placement | None:
    """Returns the placement asked for, or table-wise where the table is too small for it; None: free to choose.

    Rows in host memory are spread, if nothing is asked, so that they are read over the buses of all GPUs.
    """
    if decays_whole(table):
        return "data_parallel"
    if table.placement == "row_wise" and not has_row_blocks(table, world_size):
        return "table_wise"
    if table.placement == "column_wise" and physical_dim(table) <= KERNEL_COLUMNS:
        return "table_wise"
    if table.placement is None and table.memory != "device" and has_row_blocks(table, world_size):
        return "row_wise"
    return table.placement


def has_row_blocks(table: EmbeddingTable, world_size: int) -> bool:
    """Says whether equal blocks of rows, the last one shorter, leave no rank without a row, which TorchRec fails on."""
    block = -(-table.num_embeddings // world_size)
    return (world_size - 1) * block < table.num_embeddings


def column_width(columns: int, world_size: int) -> int:
    """Returns the columns of each column-wise shard, as wide as still gives every rank one.

    They are equal multiples of four; where `columns` is not one (our own kernel) the last shard is narrower.
    """
    if columns % KERNEL_COLUMNS:
        return -(-columns // world_size)
    quads = columns // KERNEL_COLUMNS
    counts = [n for n in range(1, quads + 1) if quads % n == 0]
    return columns // next((n for n in counts if n >= world_size), quads)


def whole_table(table: EmbeddingTable, rank: int) -> TablePlan:
    """Puts all of a table on one rank."""
    return TablePlan(table, "table_wise", (_whole(table, rank),))


def replicas(table: EmbeddingTable, world_size: int) -> TablePlan:
    """Puts all of a table on every rank."""
    return TablePlan(table, "data_parallel", tuple(_whole(table, r) for r in range(world_size)))


def row_blocks(table: EmbeddingTable, world_size: int) -> TablePlan:
    """Deals equal blocks of rows to the ranks, the last one shorter."""
    block = -(-table.num_embeddings // world_size)
    blocks = [(r, r * block, min(block, table.num_embeddings - r * block)) for r in range(world_size)]
    columns = physical_dim(table)
    return TablePlan(table, "row_wise", tuple(ShardPlan(r, start, 0, rows, columns) for r, start, rows in blocks))


def column_blocks(table: EmbeddingTable, world_size: int, first: int) -> TablePlan:
    """Deals blocks of columns to the ranks in turn, from rank `first` on."""
    columns, rows = physical_dim(table), table.num_embeddings
    width = column_width(columns, world_size)
    blocks = [(start, min(width, columns - start)) for start in range(0, columns, width)]
    shards = (ShardPlan((first + i) % world_size, 0, start, rows, wide) for i, (start, wide) in enumerate(blocks))
    return TablePlan(table, "column_wise", tuple(shards))


def _whole(table: EmbeddingTable, rank: int) -> ShardPlan:
    return ShardPlan(rank, 0, 0, table.num_embeddings, physical_dim(table))
