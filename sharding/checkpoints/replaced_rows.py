"""A saved table is copied into another checkpoint, with some of its rows replaced.

Files are copied by chunks whose checksums are verified; the new rows are then scattered into blocks of the copies, and
the checksums of the chunks that they touched are computed anew. Memory is a chunk, and the rows that the caller hands
over at once. Calls may come in any order; the rows of one ascend, so that it reads and writes each block once.
Nothing is mapped into memory: a disk without room for a changed page would end the process.
"""

import copy
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shardrec.data_pipeline.files.streams import opened_input, write_all
from shardrec.data_pipeline.files.whole_files import sync
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import SAVED_DTYPES, Entry
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.checkpoints.shard_files import Scratch, chunks, saved_row_bytes

_BLOCK_BYTES = 1 << 16  # read and written at once: rows that are replaced lie anywhere in a file
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a value -> what its bits are moved as


class ReplacedRows:
    """The copy of a table in the checkpoint `folder` is open for writing.

    Raises UserError where a file that is copied is missing, cut short or changed.
    """

    def __init__(self, table: SavedTable, folder: Path) -> None:
        self.folder = folder
        table.file_sizes()
        self._entries = copy.deepcopy(list(table.entries))
        for entry in self._entries:
            (folder / entry["file"]).parent.mkdir(parents=True, exist_ok=True)
            _copy_file(table.folder / entry["file"], folder / entry["file"], entry)
        self._touched: dict[tuple[str, str], set[int]] = defaultdict(set)

    def write(self, rows: np.ndarray, tensors: Mapping[str, Tensor]) -> None:
        """Writes tensors, by name [n, columns] or [n] in the files' dtypes, to distinct ascending `rows` [n] int64."""
        for entry in self._entries:
            top = entry["row"]
            a, b = np.searchsorted(rows, [top, top + entry["tensors"]["weight"]["shape"][0]])
            if a == b:
                continue
            inside = rows[a:b] - top
            with open(self.folder / entry["file"], "r+b", buffering=0) as file:
                for name, values in tensors.items():
                    described = entry["tensors"][name]
                    assert values.dtype == SAVED_DTYPES[described["dtype"]]
                    bits = values[a:b].contiguous().view(_BITS[values.itemsize]).numpy().reshape(b - a, -1)
                    width = saved_row_bytes(described) // values.itemsize
                    bits = bits[:, entry["column"] :][:, :width] if described["shape"][1:] else bits
                    _scatter(file.fileno(), described, inside, bits)
                    self._touched[entry["file"], name] |= set(np.unique(inside // described["chunk_rows"]).tolist())

    def finish(self) -> list[Entry]:
        """Puts all on disk; returns the manifest entries of the copy."""
        scratch = Scratch()
        for entry in self._entries:
            path = self.folder / entry["file"]
            with opened_input(path) as opened:
                for name, described in entry["tensors"].items():
                    step, width = described["chunk_rows"], saved_row_bytes(described)
                    for chunk in sorted(self._touched[entry["file"], name]):
                        start, size = chunk * step, min(step, described["shape"][0] - chunk * step) * width
                        data = scratch.read(path, opened, described["start"] + start * width, size)
                        described["crc32"][chunk] = zlib.crc32(data)
            sync(path)
        return self._entries


def _scatter(descriptor: int, tensor: Entry, rows: np.ndarray, bits: np.ndarray) -> None:
    """Writes `bits` [n, values a row] to distinct ascending rows [n] of a tensor of a file, block by block."""
    width = saved_row_bytes(tensor)
    block = max(1, _BLOCK_BYTES // width)
    firsts = np.flatnonzero(np.diff(rows // block, prepend=-1))
    for first, last in pairwise([*firsts.tolist(), len(rows)]):
        top = int(rows[first]) // block * block
        place = tensor["start"] + top * width
        size = min(block, tensor["shape"][0] - top) * width
        content = bytearray(os.pread(descriptor, size, place))
        np.frombuffer(content, bits.dtype).reshape(-1, bits.shape[1])[rows[first:last] - top] = bits[first:last]
        write_all(descriptor, memoryview(content), place)


def _copy_file(source: Location, target: Path, entry: Entry) -> None:
    """Copies a file of a table: its header, then each tensor's checked chunks, in the order of the file."""
    tensors = sorted(entry["tensors"].items(), key=lambda named: named[1]["start"])
    scratch = Scratch()
    with opened_input(source) as opened, open(target, "xb") as copied:
        copied.write(scratch.read(source, opened, 0, tensors[0][1]["start"]))
        for name, described in tensors:
            assert copied.tell() == described["start"]
            for _, rows in chunks(source, entry, name, 0, described["shape"][0], scratch):
                copied.write(memoryview(rows.reshape(-1).view(torch.uint8).numpy().data))
