"""Tables may start from another run's rows: from a range of their columns, scaled, under any plan of either run.

The rows go from the files of a checkpoint straight into live memory, chunk by chunk as in `shard_files.py`, so that no
second copy of a table is made. Optimizer state starts fresh, as the optimizer has it for rows that are not new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.shard_files import Scratch, entries_by_table, fill_rectangle
from shardrec.sharding.tables.live import LiveTable
from shardrec.sharding.updates.choose import warm_start_tables


@dataclass(frozen=True)
class SourceColumns:
    """A source is `scale` times the columns of table `name` from `start` on, as many as the target has."""

    name: str
    start: int = 0
    scale: float = 1.0


@torch.no_grad()
def copy_tables(
    folder: Location, entries: Sequence[Entry], tables: Mapping[str, LiveTable], sources: Mapping[str, SourceColumns]
) -> None:
    """Fills this rank's shards of the tables that `sources` names from the files that all ranks' `entries` name.

    Dtypes may differ, and a table may have more rows than its source: the further ones stay as they are. Raises
    UserError where the files do not hold what is asked for, or are missing, cut short or changed; KeyError for a name
    that the model or the checkpoint does not have.
    """
    by_table, scratch = entries_by_table(entries), Scratch()
    for name, source in sources.items():
        table = tables[name]
        for shard in table.shards:
            target = table.logical(shard, "weight")
            column = source.start + shard.column
            fill_rectangle(
                folder, by_table[source.name], "weight", target, shard.row, column, scratch, scale=source.scale
            )
    warm_start_tables(tables[name] for name in sources)
