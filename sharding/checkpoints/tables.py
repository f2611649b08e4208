"""Tables to and from files: one safetensors file per shard, streamed from and into live memory.

- A file holds logical columns, in row chunks of 32 MiB, each with a CRC32 in the manifest entry that `write_tables`
  returns; who composes the checkpoint gathers the ranks' entries and commits. Names, rows and columns depend on no
  plan.
- Loading copies the overlapping rectangles, so that any plan and world size reads what any other wrote. Neither
  direction needs more memory than one chunk. Every byte that is read is checked.
- Row-wise state is kept as the kernel holds it, a mean over its physical columns, whose number is in the entry.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.tables.live import LiveTable, TableShard, physical_dim
from shardrec.sharding.updates.choose import row_update

CHUNK_BYTES = 32 << 20
_BEHIND_BYTES = 256 << 20  # of a file that is being written may wait in the page cache for the disk
_HEADER_ALIGNMENT = 4096  # keeps rows page-aligned; readers of safetensors accept the spaces
_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
SAVED_DTYPES = {code: dtype for dtype, code in _CODES.items()}
REPLACE = "restore the file from a copy, or resume from an earlier step"  # what to do about a damaged one

Entry = dict[str, Any]

# ---------------------------------------------------------------- writing


def write_tables(
    folder: Path, tables: Mapping[str, LiveTable], process_group: dist.ProcessGroup | None = None
) -> list[Entry]:
    """Writes this rank's shards to new files under `folder/tables` and syncs them to disk.

    Of a data-parallel table each rank writes its share of rows. Returns the manifest entries of these files, which JSON
    can hold. Raises FileExistsError where a file is already there.
    """
    inside = folder / "tables"
    inside.mkdir(parents=True, exist_ok=True)
    rank, ranks = (
        (dist.get_rank(process_group), dist.get_world_size(process_group)) if dist.is_initialized() else (0, 1)
    )
    entries = []
    for table in tables.values():
        for shard in table.shards:
            if table.replicated:
                shard = _share(shard, rank, ranks)
            if len(shard.weight):
                entries.append(_write_shard(inside, table, shard))
    sync_folder(inside)
    return entries


def _share(shard: TableShard, rank: int, ranks: int) -> TableShard:
    """The rows of a replica that a rank writes."""
    rows = len(shard.weight)
    start, stop = rows * rank // ranks, rows * (rank + 1) // ranks
    return TableShard(shard.row + start, shard.column, {n: t[start:stop] for n, t in shard.tensors.items()})


def _write_shard(inside: Path, table: LiveTable, shard: TableShard) -> Entry:
    tensors = {name: table.logical(shard, name) for name in shard.tensors}
    path = inside / f"{quote(table.name, safe='')}.r{shard.row}.c{shard.column}.safetensors"
    described = write_file(path, tensors, {"table": table.name, "row": str(shard.row), "column": str(shard.column)})
    return {
        "table": table.name,
        **_description(table),
        "file": f"tables/{path.name}",
        "row": shard.row,
        "column": shard.column,
        "tensors": described,
    }


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Entry:
    """Streams tensors [rows] or [rows, columns] to a new safetensors file, on disk when it returns.

    Returns what an entry says of them: dtype, shape, where each starts, the rows of a chunk and each chunk's CRC32.
    """
    described: dict[str, Any] = {}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        described[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape)}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _HEADER_ALIGNMENT)
    with open(path, "xb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(struct.pack("<Q", len(text)) + text))
        for name, tensor in tensors.items():
            described[name]["start"] = file.tell()
            described[name]["chunk_rows"], described[name]["crc32"] = _write_rows(file.fileno(), tensor)
        os.fsync(file.fileno())
    return described


def sync_folder(path: Path) -> None:
    """Puts a folder's list of files on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _description(table: LiveTable) -> Entry:
    """What must be equal for a checkpoint to fit a model, and the physical dim."""
    assert table.table.optimizer is not None
    return {
        "num_embeddings": table.table.num_embeddings,
        "embedding_dim": table.table.embedding_dim,
        "dtype": table.table.dtype,
        "optimizer": table.table.optimizer.name,
        "physical_dim": physical_dim(table.table),
        "dynamic": table.table.dynamic.name if table.table.dynamic else None,
    }


def _write_rows(descriptor: int, tensor: Tensor) -> tuple[int, list[int]]:
    """Streams a tensor's rows; returns the rows of a chunk and each chunk's CRC32, taken while the chunk is written."""
    step = max(1, CHUNK_BYTES // max(1, tensor[:1].numel() * tensor.element_size()))
    sums = []
    with ThreadPoolExecutor(1) as beside:
        for start in range(0, len(tensor), step):
            chunk = memoryview(tensor[start : start + step].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            checksum = beside.submit(zlib.crc32, chunk)
            _write_all(descriptor, chunk)
            _write_behind(descriptor)
            sums.append(checksum.result())
    return step, sums


def _write_behind(descriptor: int) -> None:
    """Has the disk begin on what was written, rather than at the final sync, and drops what it has taken from memory.

    Otherwise a large checkpoint first fills the page cache, and pushes out what the run reads.
    """
    if hasattr(os, "posix_fadvise"):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        start = max(0, end - _BEHIND_BYTES)
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# ---------------------------------------------------------------- reading


def read_tables(folder: Path, entries: Sequence[Entry], tables: Mapping[str, LiveTable], *, grow: bool = False) -> None:
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
    """Whether a table is dynamic, with the ids of `space`, or fixed (None), in the words of an error line."""
    return f"dynamic (ids of {space!r})" if space else "fixed"


def check_model(
    folder: Path, entries: Mapping[str, list[Entry]], tables: Mapping[str, LiveTable], grow: bool = False
) -> None:
    """Raises UserError where a checkpoint's tables are not the model's. Of frozen ones only rows and dims count."""
    other = f"{folder} is a checkpoint of another model"
    remedy = "use the model and tables it was made with, or another run folder"
    for name in tables.keys() ^ entries.keys():
        where = "in the model only" if name in tables else "in the checkpoint only"
        raise UserError(f"{other}: table {name!r} is {where}; {remedy}")
    for name, table in tables.items():
        wanted = _description(table)
        for entry in entries[name]:
            spaces = (entry.get("dynamic"), wanted["dynamic"])
            if spaces[0] != spaces[1]:
                there, here = map(kind_of_ids, spaces)
                raise UserError(f"{other}: table {name!r} is {there} there and {here} here; {remedy}")
            for what in ("num_embeddings", "embedding_dim", "dtype", "optimizer")[: 2 if table.table.frozen else None]:
                found, expected = entry[what], wanted[what]
                if found == expected or (what == "num_embeddings" and grow and found < expected):
                    continue
                raise UserError(f"{other}: table {name!r} has {what} {found} there and {expected} here; {remedy}")
            if table.table.frozen:
                continue
            state = row_update(table.table).state_shapes(1, 1).keys()
            if state != entry["tensors"].keys() - {"weight"}:  # momentum is a state that sgd may have or not
                there, here = (", ".join(sorted(s)) or "none" for s in (entry["tensors"].keys() - {"weight"}, state))
                raise UserError(f"{other}: table {name!r} has optimizer state {there} there and {here} here; {remedy}")


class Scratch:
    """The one buffer that chunks are read into."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, file: Path, descriptor: int, start: int, size: int) -> memoryview:
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        into, got = memoryview(self._bytes)[:size], 0
        while got < size:
            count = os.preadv(descriptor, [into[got:]], start + got)
            if count == 0:
                raise UserError(f"{file}: cut short: {start + got} bytes found, {start + size} expected; {REPLACE}")
            got += count
        return into


def entries_by_table(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """A manifest's entries by the table that their files hold a part of."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry["table"], []).append(entry)
    return found


def saved_row_bytes(tensor: Entry) -> int:
    """Bytes of one row of a tensor, by what an entry says of it."""
    return SAVED_DTYPES[tensor["dtype"]].itemsize * (tensor["shape"][1] if tensor["shape"][1:] else 1)


def fill_rectangle(
    folder: Path,
    entries: Sequence[Entry],
    name: str,
    target: Tensor,
    row: int,
    column: int,
    scratch: Scratch,
    scale: float = 1.0,
) -> None:
    """Copies `scale` times what the files of a table hold of `target`, whose first value is at (row, column) of it.

    name: the tensor. target: [rows] or [rows, columns], of any dtype; rows beyond the table's last stay as they are.
    Raises UserError where the files do not hold all of it, or are missing, cut short or changed.
    """
    columns = target.shape[1] if target.dim() == 2 else 1
    filled, table, there = 0, entries[0]["table"], entries[0]["num_embeddings"]
    for entry in entries:
        if name not in entry["tensors"]:
            raise UserError(f"{folder / entry['file']}: holds no {name!r} of table {table!r}; {REPLACE}")
        if target.dim() == 2:
            filled += _copy(folder / entry["file"], entry, name, target, row, column, scratch, scale)
        elif entry["column"] == 0:  # one number a row: equal in all column-wise shards
            filled += _copy(folder / entry["file"], entry, name, target, row, 0, scratch, scale)
    wanted = max(0, min(len(target), there - row)) * columns
    if filled != wanted:
        raise UserError(f"{folder}: the files of table {table!r} hold {filled} of {wanted} values; {REPLACE}")


def _copy(
    file: Path, entry: Entry, name: str, target: Tensor, row: int, column: int, scratch: Scratch, scale: float
) -> int:
    """Copies the rectangle that a file and `target` have in common; returns how many values that is."""
    shape = entry["tensors"][name]["shape"]
    width = target.shape[1] if target.dim() == 2 else 1
    left, right = max(column, entry["column"]), min(column + width, entry["column"] + (shape[1] if shape[1:] else 1))
    top, bottom = max(row, entry["row"]), min(row + len(target), entry["row"] + shape[0])
    if left >= right or top >= bottom:
        return 0
    for start, rows in chunks(file, entry, name, top - entry["row"], bottom - entry["row"], scratch):
        first = entry["row"] + start
        a, b = max(first, top), min(first + len(rows), bottom)
        part, rows = target[a - row : b - row], rows[a - first : b - first]
        if target.dim() == 2:
            part = part[:, left - column : right - column]
            rows = rows[:, left - entry["column"] : right - entry["column"]]
        part.copy_(rows if scale == 1 else rows.float() * scale)
    return (bottom - top) * (right - left)


def chunks(
    file: Path, entry: Entry, name: str, first: int, last: int, scratch: Scratch
) -> Iterator[tuple[int, Tensor]]:
    """(first row, checked rows) of the chunks of a file that hold rows [first, last)."""
    described = entry["tensors"][name]
    shape, step, width = described["shape"], described["chunk_rows"], saved_row_bytes(described)
    dtype = SAVED_DTYPES[described["dtype"]]
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        raise UserError(f"{file}: missing, though the checkpoint's manifest names it; {REPLACE}") from None
    try:
        for chunk in range(first // step, -(-last // step)):
            start = chunk * step
            size = min(step, shape[0] - start) * width
            data = scratch.read(file, descriptor, described["start"] + start * width, size)
            if zlib.crc32(data) != described["crc32"][chunk]:
                rows = f"rows {start} to {start + size // width} of {name!r}"
                raise UserError(f"{file}: {rows} have changed since they were written (checksum differs); {REPLACE}")
            yield start, torch.frombuffer(data, dtype=dtype).view(-1, *shape[1:])
    finally:
        os.close(descriptor)
