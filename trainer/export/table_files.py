"""A table's rows are written as one `.npy` file, block by block as a checkpoint is read, so that it can be mapped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_strings, is_string
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.data_pipeline.files.file_errors import about
from shardrec.sharding.checkpoints.id_maps import SavedIdMap
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.distribution.frozen_rows import quantise
from shardrec.sharding.tables.live import SCALE_BYTES

Rows = Literal["fp16", "int8"]
"""How rows are stored where that is smaller than as they were trained."""


def write_table(folder: Path, stem: str, table: SavedTable, rows: Rows | None) -> dict[str, Any]:
    """Writes `folder/tables/STEM.npy` and returns what a bundle says of it. Takes the memory of a block of rows.

    Raises UserError for a damaged checkpoint, and for values that a reader could not use.
    """
    dtype = _dtype(table, rows)
    columns = table.embedding_dim + (SCALE_BYTES if dtype == "int8" else 0)
    file = f"tables/{stem}.npy"
    (folder / "tables").mkdir(exist_ok=True)
    stored_as = {"fp32": "<f4", "fp16": "<f2", "int8": "|u1"}[dtype]
    with new_array(folder / file, stored_as, (table.num_embeddings, columns)) as out:
        for start, block in table.blocks("weight", table.block_rows(["weight"])):
            stored = _converted(dtype)(block)
            if not bool(block.isfinite().all()) or (dtype == "fp16" and not bool(stored.isfinite().all())):
                raise UserError(
                    f"{table.folder}: rows {start} to {start + len(block)} of table {table.name!r} hold values that "
                    f"{dtype} does not; export another step, or without --rows"
                )
            out.write(stored.numpy().data)
    return {"file": file, "rows": table.num_embeddings, "dim": table.embedding_dim, "dtype": dtype}


@contextmanager
def new_array(path: Path, dtype: str, shape: tuple[int, ...]) -> Iterator[BinaryIO]:
    """Yields a `.npy` file that is to be filled. NumPy's own writer does not say that a disk is full."""
    with about(path), path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        yield file


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a whole array as a `.npy` file."""
    with new_array(path, array.dtype.str, array.shape) as file:
        file.write(np.ascontiguousarray(array).data)


def _dtype(table: SavedTable, rows: Rows | None) -> str:
    """Returns the smaller of how a table was trained and what is asked for."""
    sizes = {
        "fp32": 4 * table.embedding_dim,
        "fp16": 2 * table.embedding_dim,
        "int8": table.embedding_dim + SCALE_BYTES,
    }
    return min((table.dtype, rows or table.dtype), key=lambda dtype: sizes[dtype])


def _converted(dtype: str) -> Callable[[Tensor], Tensor]:
    if dtype == "int8":
        return quantise
    wanted = torch.float16 if dtype == "fp16" else torch.float32
    return lambda rows: rows.to(wanted).contiguous()


def write_id_map(folder: Path, stem: str, id_map: SavedIdMap) -> dict[str, Any]:
    """Writes the ids that have a row, ascending, and their rows; returns what a bundle says of them."""
    ids, rows = [], []
    columns = (id_map.rows.blocks(name) for name in ("id", "count"))
    for (start, block), (_, counts) in zip(*columns, strict=True):
        taken = (counts > 0).nonzero().squeeze(1)
        ids.append(block[taken].numpy())
        rows.append((taken + start).numpy())
    all_ids = np.concatenate(ids)
    order = np.argsort(all_ids)
    (folder / "tables").mkdir(exist_ok=True)
    files = {"ids": f"tables/{stem}.ids.npy", "rows": f"tables/{stem}.rows.npy"}
    write_array(folder / files["ids"], all_ids[order])
    write_array(folder / files["rows"], np.concatenate(rows)[order])
    return {**files, "default_row": id_map.ids.default_row}


def write_vocabulary(folder: Path, stem: str, source: str, path: str) -> bool:
    """Writes a vocabulary's values sorted as the loader looks them up; returns whether they are strings.

    source: the folder of the schema, which names the file `path`. Raises UserError where that is missing or damaged.
    """
    values = kept_values(source, path)
    if values is None:
        raise UserError(f"{source.rstrip('/')}/{path}: missing or damaged, though the schema names it; restore it")
    (folder / "vocabularies").mkdir(exist_ok=True)
    whole = values.combine_chunks()
    strings = is_string(whole.type)
    keys = hash_strings(whole) if strings else whole.to_numpy()
    order = np.argsort(keys, kind="stable")
    write_array(folder / f"{stem}.keys.npy", keys[order])
    write_array(folder / f"{stem}.rows.npy", order + 1)
    if strings:
        ordered = whole.cast(pa.large_binary()).take(pa.array(order))
        batch = pa.record_batch({"value": ordered})
        with pa.OSFile(f"{folder / stem}.arrow", "wb") as out, pa.ipc.new_file(out, batch.schema) as writer:
            writer.write_batch(batch)
    return strings
