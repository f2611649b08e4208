"""Live tables are written shard by shard, and filled from the files of any plan and world size.

- Each rank writes its shards' logical columns, one file a shard (`shard_files.py`), and returns manifest entries; who
  composes the checkpoint gathers all ranks' entries and commits. Names, rows and columns depend on no plan.
- Reading copies the rectangles that a shard and the files have in common.
- Row-wise state is kept as the kernel holds it, a mean over its physical columns, whose number is in the entry.
"""

from collections.abc import Mapping, Sequence

import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_names import file_stems
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.shard_files import Scratch, entries_by_table, fill_rectangle
from shardrec.sharding.checkpoints.unwritten_file import UnwrittenFile, write_files
from shardrec.sharding.tables.live import LiveTable, TableShard, physical_dim
from shardrec.sharding.updates.choose import row_update

# ---------------------------------------------------------------- writing


def write_tables(
    folder: Location, tables: Mapping[str, LiveTable], process_group: dist.ProcessGroup | None = None
) -> list[Entry]:
    """Writes this rank's shards to new files under `folder/tables` and puts them on disk.

    Returns the manifest entries of these files, which JSON can hold. Raises FileExistsError where one is already there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_files(table_files(folder, tables, process_group))


def table_files(
    folder: Location, tables: Mapping[str, LiveTable], process_group: dist.ProcessGroup | None = None
) -> list[UnwrittenFile]:
    """Returns the files of this rank's shards, to be written under `folder/tables`.

    Of a data-parallel table each rank has its share of rows.
    """
    rank, ranks = (
        (dist.get_rank(process_group), dist.get_world_size(process_group)) if dist.is_initialized() else (0, 1)
    )
    files, stems = [], file_stems(tables)
    for name, table in tables.items():
        for shard in table.shards:
            if table.replicated:
                shard = _share(shard, rank, ranks)
            if len(shard.weight):
                files.append(_shard_file(folder / "tables", stems[name], table, shard))
    return files


def _share(shard: TableShard, rank: int, ranks: int) -> TableShard:
    """Returns the rows of a replica that a rank writes."""
    row_count = len(shard.weight)
    start, stop = row_count * rank // ranks, row_count * (rank + 1) // ranks
    return TableShard(shard.row + start, shard.column, {n: t[start:stop] for n, t in shard.tensors.items()})


def _shard_file(inside: Location, stem: str, table: LiveTable, shard: TableShard) -> UnwrittenFile:
    path = inside / f"{stem}.r{shard.row}.c{shard.column}.safetensors"
    entry = {
        "table": table.name,
        **_description(table),
        "file": f"{inside.name}/{path.name}",
        "row": shard.row,
        "column": shard.column,
    }
    return UnwrittenFile(path, entry, {name: table.logical(shard, name) for name in shard.tensors})


def _description(table: LiveTable) -> Entry:
    """Returns what must be equal for a checkpoint to fit a model, and the physical dim."""
    assert table.table.optimizer is not None
    return {
        "num_embeddings": table.table.num_embeddings,
        "embedding_dim": table.table.embedding_dim,
        "dtype": table.table.dtype,
        "optimizer": table.table.optimizer.name,
        "physical_dim": physical_dim(table.table),
        "dynamic": table.table.dynamic.name if table.table.dynamic else None,
    }


# ---------------------------------------------------------------- reading


def read_tables(
    folder: Location, entries: Sequence[Entry], tables: Mapping[str, LiveTable], *, grow: bool = False
) -> None:
    """Fills this rank's shards from the files that all ranks' `entries` name.

    With `grow` a table may have more rows than the checkpoint: the further ones stay as they are. Raises UserError
    where the checkpoint is another model's (names, rows, dims, dtypes, optimizers), and for a file that is missing, cut
    short or changed. Tables may be half filled then.
    """
    by_table = entries_by_table(entries)
    check_model(folder, by_table, tables, grow)
    scratch = Scratch()
    for name, table in tables.items():
        for shard in table.shards:
            for tensor in shard.tensors:
                target = table.logical(shard, tensor)
                is_row_mean = tensor == "accumulator" and target.dim() == 1
                scale = by_table[name][0]["physical_dim"] / physical_dim(table.table) if is_row_mean else 1.0
                fill_rectangle(folder, by_table[name], tensor, target, shard.row, shard.column, scratch, scale)


def kind_of_ids(space: str | None) -> str:
    """Says in the words of an error line whether a table is dynamic, with the ids of `space`, or fixed (None)."""
    return f"dynamic (ids of {space!r})" if space else "fixed"


def check_model(
    folder: Location, entries: Mapping[str, list[Entry]], tables: Mapping[str, LiveTable], grow: bool = False
) -> None:
    """Raises UserError where a checkpoint's tables are not the model's. Of frozen ones only rows and dims count."""
    complaint = f"{folder} is a checkpoint of another model"
    remedy = "use the model and tables it was made with, or another run folder"
    for name in tables.keys() ^ entries.keys():
        where = "in the model only" if name in tables else "in the checkpoint only"
        raise UserError(f"{complaint}: table {name!r} is {where}; {remedy}")
    for name, table in tables.items():
        wanted = _description(table)
        for entry in entries[name]:
            spaces = (entry.get("dynamic"), wanted["dynamic"])
            if spaces[0] != spaces[1]:
                there, here = map(kind_of_ids, spaces)
                raise UserError(f"{complaint}: table {name!r} is {there} there and {here} here; {remedy}")
            for key in ("num_embeddings", "embedding_dim", "dtype", "optimizer")[: 2 if table.table.frozen else None]:
                saved, expected = entry[key], wanted[key]
                if saved == expected or (key == "num_embeddings" and grow and saved < expected):
                    continue
                raise UserError(f"{complaint}: table {name!r} has {key} {saved} there and {expected} here; {remedy}")
            if table.table.frozen:
                continue
            state = row_update(table.table).state_shapes(1, 1).keys()
            if state != entry["tensors"].keys() - {"weight"}:  # momentum is a state that sgd may have or not
                there, here = (", ".join(sorted(s)) or "none" for s in (entry["tensors"].keys() - {"weight"}, state))
                raise UserError(
                    f"{complaint}: table {name!r} has optimizer state {there} there and {here} here; {remedy}"
                )
