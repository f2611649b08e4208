"""A table of a checkpoint is exported as Parquet files of `id` and `vector`, by blocks of rows, whole or not at all.

Vectors are float32, also those of fp16 tables: every reader of Parquet knows it, it holds fp16 exactly, and bytes of
equal place are compressed together, so that what fp16 leaves empty takes no room.
"""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.tables.magnitudes import count_beyond
from shardrec.trainer.checkpoints.saved_model import DeclaredTable, SavedModel
from shardrec.trainer.config.paths import absolute_folder
from shardrec.trainer.run_folder.atomic import new_folder
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables.ids import TableIds

ID, VECTOR = "id", "vector"
METADATA = b"shardrec"
"""The key of the file metadata that says, as JSON, which table of which run the rows are of."""

BLOCK_BYTES = 32 << 20
"""Bytes of float32 values that are converted and written at once, as a row group."""

PART_BYTES = 1 << 30
"""Bytes of float32 values in one file."""


def export_table(
    run_folder: Path, name: str, out: Path, step: int | None = None, *, state: bool = False, by_number: bool = False
) -> dict[str, Any]:
    """Writes `out/part-00000.parquet` and further ones: the table's rows that have an id, in the order of the rows.

    With `state` also a column for each of the optimizer's state, a list as long as the vector or one number a row.
    Returns what was written, in figures. Raises UserError where `out` is not empty, where the checkpoint or the table
    is missing or damaged, and for a value that is not finite; then `out` is left as it was.
    """
    folder, out = RunFolder.open(run_folder), absolute_folder(out)
    saved = SavedModel.of(folder, step)
    step = saved.step
    table, declared = saved.table(name), DeclaredTable.of(folder, name)
    id_map = saved.id_map(table)
    ids = TableIds.of(folder, declared.features, table.num_embeddings, id_map=id_map, by_number=by_number)
    about = {
        "table": name,
        "ids": ids.kind,
        "run": str(folder.path),
        "step": step,
        "num_embeddings": table.num_embeddings,
        "embedding_dim": table.embedding_dim,
        "dtype": table.dtype,
        "optimizer": table.optimizer,
    }
    with new_folder(out) as temporary:
        file_count, row_count = _write_parts(temporary, table, ids, list(table.tensors)[: None if state else 1], about)
    return about | {"rows": row_count, "files": file_count, "why": ids.why, "nameless": ids.nameless}


def _write_parts(
    folder: Path, table: SavedTable, ids: TableIds, tensors: list[str], about: dict[str, Any]
) -> tuple[int, int]:
    """Writes the rows that have an id; returns how many files there are, and how many rows in them."""
    shapes = {VECTOR if t == "weight" else t: table.tensors[t] for t in tensors}
    types = {name: pa.float32() if len(s) == 1 else pa.list_(pa.float32(), s[1]) for name, s in shapes.items()}
    schema = pa.schema({ID: ids.value_type, **types})
    schema = schema.with_metadata({METADATA: json.dumps(about)})
    step = max(1, BLOCK_BYTES // (4 * max(math.prod(shape[1:]) for shape in shapes.values())))
    first, last = ids.rows.start, ids.rows.stop
    blocks = zip(ids.blocks(step), *(table.blocks(t, step, first=first, last=last) for t in tensors), strict=True)
    writer, file_count, row_count, room = None, 0, 0, 0  # room: rows that the file at hand still takes
    for (block_ids, with_id), *tensor_blocks in blocks:
        values = [block if with_id is None else block[with_id] for _, block in tensor_blocks]
        if count := sum(count_beyond(v, torch.finfo(v.dtype).max) for v in values):
            start = tensor_blocks[0][0]
            raise UserError(
                f"{table.folder}: {count:,} values of table {table.name!r} in rows {start} to {start + step} are not "
                "finite, and would spoil what reads them; export another step"
            )
        if writer is None or room < len(block_ids):
            if writer is not None:
                writer.close()
            writer = _writer(folder / f"part-{file_count:05d}.parquet", schema)
            file_count, room = file_count + 1, max(len(block_ids), PART_BYTES * step // BLOCK_BYTES)
        writer.write_table(pa.Table.from_arrays([block_ids, *map(_column, values)], schema=schema))
        row_count, room = row_count + len(block_ids), room - len(block_ids)
    if writer is not None:
        writer.close()
    return file_count, row_count


def _writer(path: Path, schema: pa.Schema) -> SealedWriter:
    leaves = [f.name if pa.types.is_floating(f.type) else f"{f.name}.list.element" for f in schema if f.name != ID]
    return SealedWriter(
        path,
        schema,
        use_dictionary=False,  # values hardly repeat
        column_encoding=dict.fromkeys(leaves, "BYTE_STREAM_SPLIT"),
        write_statistics=[ID],
    )


def _column(values: Tensor) -> pa.Array:
    """Returns [n] as a column of numbers, [n, columns] as one of lists."""
    numbers = pa.array(values.float().numpy().ravel())
    return numbers if values.dim() == 1 else pa.FixedSizeListArray.from_arrays(numbers, values.shape[1])
