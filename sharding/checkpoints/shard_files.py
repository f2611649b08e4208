"""A shard is one safetensors file, streamed from live memory and read back in checked chunks of rows.

A chunk is 32 MiB, with a CRC32 in the file's manifest entry. Neither direction needs more memory than one chunk, and
every byte that is read is checked. Any rectangle of a table is filled from the files that overlap it.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.streams import Input, Output, opened_input, write_new
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import CHUNK_BYTES, CODES, SAVED_DTYPES, Entry, file_metadata
from shardrec.sharding.tables.magnitudes import count_beyond, largest_value

_HEADER_ALIGNMENT = 4096  # keeps rows page-aligned; readers of safetensors accept the spaces
REPLACE = "restore the file from a copy, or resume from an earlier step"
"""What an error line advises about a damaged file."""


def write_file(
    path: Location, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, counts_unsound: bool = True
) -> Entry:
    """Streams tensors [rows] or [rows, columns] to a new safetensors file, on disk or in its store when it returns.

    Returns what an entry says of them: dtype, shape, where each starts, the rows of a chunk and each chunk's CRC32; and
    `unsound`, where any are, the number of values that are not finite or beyond `largest_value`.

    counts_unsound: else they were looked at before, and one thread writes, beside others that have work to do.
    """

    def write(file: Output) -> Entry:
        described: Entry = {n: {"dtype": CODES[t.dtype], "shape": list(t.shape)} for n, t in tensors.items()}
        file.write(memoryview(_header(described, metadata)))
        for name, tensor in tensors.items():
            described[name]["start"] = file.tell()
            if counts_unsound:
                rows, sums, unsound = _write_rows(file, tensor, largest_value(name))
            else:
                rows, sums, unsound = *_write_checked_rows(file, tensor), 0
            described[name] |= {"chunk_rows": rows, "crc32": sums, **({"unsound": unsound} if unsound else {})}
        return described

    return write_new(path, write)


def _header(described: Entry, metadata: Mapping[str, str]) -> bytes:
    """Returns what a safetensors file of such tensors, one after another, begins with."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in described.items():
        end = at + tensor["shape"][0] * saved_row_bytes(tensor)
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def check_header(file: Location, entry: Entry) -> None:
    """Raises UserError where a file does not begin as one of what its entry says; nothing of ours reads that part."""
    expected = _header(entry["tensors"], file_metadata(entry))
    found = bytearray(len(expected))
    with opened_input(file) as opened:
        if opened.read_into(memoryview(found), 0) < len(found) or found != expected:
            raise UserError(f"{file}: its header has changed since it was written; {REPLACE}")


def _write_rows(file: Output, tensor: Tensor, largest: float) -> tuple[int, list[int], int]:
    """Streams a tensor's rows; returns the rows of a chunk, each chunk's CRC32, and how many values exceed `largest`.

    The last two are taken while the chunk is written.
    """
    step = _chunk_rows(tensor)
    if len(tensor) <= step:  # most tables of a wide schema are small, and a thread each would take longer than they do
        rows = tensor.cpu().contiguous()
        chunk = _bytes_of(rows)
        file.write(chunk)
        return step, [zlib.crc32(chunk)] if len(tensor) else [], count_beyond(rows, largest)
    sums, unsound = [], 0
    with ThreadPoolExecutor(1) as beside:
        for start in range(0, len(tensor), step):
            rows = tensor[start : start + step].cpu().contiguous()
            chunk = _bytes_of(rows)
            checksum, beyond = beside.submit(zlib.crc32, chunk), beside.submit(count_beyond, rows, largest)
            file.write(chunk)
            file.written_behind()
            sums.append(checksum.result())
            unsound += beyond.result()
    return step, sums, unsound


def _write_checked_rows(file: Output, tensor: Tensor) -> tuple[int, list[int]]:
    """Streams rows in the host's memory, whose values need no look; returns the rows of a chunk, and checksums."""
    step, sums = _chunk_rows(tensor), []
    for start in range(0, len(tensor), step):
        chunk = _bytes_of(tensor[start : start + step])
        sums.append(zlib.crc32(chunk))
        file.write(chunk)
        file.written_behind()
    return step, sums


def _chunk_rows(tensor: Tensor) -> int:
    return max(1, CHUNK_BYTES // max(1, tensor[:1].numel() * tensor.element_size()))


def _bytes_of(rows: Tensor) -> memoryview:
    return memoryview(rows.view(-1).view(torch.uint8).numpy().data)


class Scratch:
    """A scratch is the one buffer that chunks are read into."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, file: Location, opened: Input, start: int, size: int) -> memoryview:
        """Returns `size` bytes of a file from `start` on, good until the next call. Raises UserError for fewer."""
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        buffer = memoryview(self._bytes)[:size]
        if (count := opened.read_into(buffer, start)) < size:
            raise UserError(f"{file}: cut short: {start + count} bytes found, {start + size} expected; {REPLACE}")
        return buffer


def entries_by_table(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Returns a manifest's entries by the table that their files hold a part of."""
    by_table: dict[str, list[Entry]] = {}
    for entry in entries:
        by_table.setdefault(entry["table"], []).append(entry)
    return by_table


def saved_row_bytes(tensor: Entry) -> int:
    """Returns the bytes of one row of a tensor, by what an entry says of it."""
    return SAVED_DTYPES[tensor["dtype"]].itemsize * (tensor["shape"][1] if tensor["shape"][1:] else 1)


def fill_rectangle(
    folder: Location,
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
        if len(entry["tensors"][name]["shape"]) != target.dim():
            raise UserError(f"{folder / entry['file']}: {name!r} of table {table!r} has another shape; {REPLACE}")
        if target.dim() == 2:
            filled += _copy(folder / entry["file"], entry, name, target, row, column, scratch, scale)
        elif entry["column"] == 0:  # one number a row: equal in all column-wise shards
            filled += _copy(folder / entry["file"], entry, name, target, row, 0, scratch, scale)
    wanted = max(0, min(len(target), there - row)) * columns
    if filled != wanted:
        raise UserError(f"{folder}: the files of table {table!r} hold {filled} of {wanted} values; {REPLACE}")


def _copy(
    file: Location, entry: Entry, name: str, target: Tensor, row: int, column: int, scratch: Scratch, scale: float
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
    file: Location, entry: Entry, name: str, first: int, last: int, scratch: Scratch
) -> Iterator[tuple[int, Tensor]]:
    """Yields (first row, checked rows) of the chunks of a file that hold rows [first, last)."""
    described = entry["tensors"][name]
    shape, step, width = described["shape"], described["chunk_rows"], saved_row_bytes(described)
    dtype = SAVED_DTYPES[described["dtype"]]
    with _opened(file) as opened:
        end = described["start"] + shape[0] * width
        if opened.size < end:  # before memory is taken for what a manifest says
            raise UserError(f"{file}: cut short: {opened.size} bytes found, {end} expected; {REPLACE}")
        for chunk in range(first // step, -(-last // step)):
            start = chunk * step
            size = min(step, shape[0] - start) * width
            data = scratch.read(file, opened, described["start"] + start * width, size)
            if zlib.crc32(data) != described["crc32"][chunk]:
                rows = f"rows {start} to {start + size // width} of {name!r}"
                raise UserError(f"{file}: {rows} have changed since they were written (checksum differs); {REPLACE}")
            yield start, torch.frombuffer(data, dtype=dtype).view(-1, *shape[1:])


@contextmanager
def _opened(file: Location) -> Iterator[Input]:
    """Opens a file of a checkpoint. Raises UserError where it is missing."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(opened_input(file))
        except FileNotFoundError:
            raise UserError(f"{file}: missing, though the checkpoint's manifest names it; {REPLACE}") from None
        yield opened
