"""Checkpoints are read into tables that are only read: without optimizer state, and quantised as they stream in."""

from collections.abc import Mapping, Sequence

from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.checkpoints.shard_files import entries_by_table
from shardrec.sharding.checkpoints.tables import check_model
from shardrec.sharding.distribution.frozen_rows import quantise
from shardrec.sharding.tables.live import LiveTable


def read_frozen_tables(folder: Location, entries: Sequence[Entry], tables: Mapping[str, LiveTable]) -> None:
    """Fills this rank's shards of tables that are only read, from the files that all ranks' `entries` name.

    Takes a block of 8 MiB and a chunk of each file in use besides, and reads no optimizer state. Raises UserError as
    `read_tables` does.
    """
    by_table = entries_by_table(entries)
    check_model(folder, by_table, tables)
    for name, table in tables.items():
        saved = SavedTable.of(folder, by_table[name])
        for shard in table.shards:
            weight = shard.weight
            for start, rows in saved.blocks(
                "weight", saved.block_rows(["weight"]), first=shard.row, last=shard.row + len(weight)
            ):
                at = start - shard.row
                weight[at : at + len(rows)].copy_(quantise(rows) if table.table.dtype == "int8" else rows)
