"""A checkpoint's tables are read front to back, whatever the plan and world size that wrote them.

A table is never held whole: of each file that a stretch of rows is in, one chunk of 32 MiB is in memory, which is read
once and checked. So is a table that is to be written with some rows replaced (`replaced_rows.py`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import SAVED_DTYPES, Entry
from shardrec.sharding.checkpoints.shard_files import (
    REPLACE,
    Scratch,
    check_header,
    chunks,
    entries_by_table,
    saved_row_bytes,
)

BLOCK_BYTES = 8 << 20
"""A block of rows has so many bytes of its largest tensor: much less than a chunk, as it is a copy besides."""


@dataclass(frozen=True, kw_only=True)
class SavedRows:
    """Saved rows are tensors of equally many rows, of which several files may each hold a part.

    folder: the checkpoint. entries: what its manifest says of the files. tensors: by name, each with the shape of the
    whole: [rows, columns], or [rows].
    """

    word: ClassVar[str]
    """What error lines call such rows."""

    folder: Location
    entries: Sequence[Entry]
    name: str
    num_embeddings: int
    tensors: Mapping[str, tuple[int, ...]]

    def file_sizes(self) -> dict[str, int]:
        """Returns the bytes of each file.

        Raises UserError for one that is missing, or not as long as it was, or begins in another way.
        """
        sizes = {}
        for entry in self.entries:
            path = self.folder / entry["file"]
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise UserError(f"{path}: missing, though the checkpoint's manifest names it; {REPLACE}") from None
            expected = max(_end(tensor) for tensor in entry["tensors"].values())
            if size != expected:
                fault = "cut short" if size < expected else "longer than when it was written"
                raise UserError(f"{path}: {fault}: {size} bytes found, {expected} expected; {REPLACE}")
            check_header(path, entry)
            sizes[entry["file"]] = size
        return sizes

    def element_bytes(self, tensor: str) -> int:
        """Returns the bytes of one value of a tensor."""
        return SAVED_DTYPES[self.entries[0]["tensors"][tensor]["dtype"]].itemsize

    def block_rows(self, tensors: Iterable[str] | None = None) -> int:
        """Returns the rows of a block: as many as make up `BLOCK_BYTES` in the largest of some tensors (None: all)."""
        names = self.tensors if tensors is None else tensors
        widest = max(math.prod(self.tensors[n][1:]) * self.element_bytes(n) for n in names)
        return max(1, BLOCK_BYTES // widest)

    def blocks(
        self, tensor: str, rows: int | None = None, *, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yields (number of the first row, values) of blocks of `rows` rows, from row `first` to `last`.

        Values are [n, columns] or [n], in the dtype of the files, and good until the next block. Raises UserError where
        a file is missing, cut short or changed, or where the files do not hold the whole table.
        """
        step, last = rows or self.block_rows(), self.num_embeddings if last is None else last
        shape = self.tensors[tensor]
        dtype = SAVED_DTYPES[self.entries[0]["tensors"][tensor]["dtype"]]
        buffer = torch.empty((min(step, max(0, last - first)), *shape[1:]), dtype=dtype)
        reader = _Reader(self, tensor)
        for start in range(first, last, step):
            values = buffer[: min(step, last - start)]
            reader.fill(values, start)
            yield start, values


@dataclass(frozen=True, kw_only=True)
class SavedTable(SavedRows):
    """A saved table is one of a checkpoint's. tensors: `weight`, then the optimizer's state. dynamic: its id space."""

    word = "table"

    embedding_dim: int
    dtype: str
    optimizer: str
    physical_dim: int
    dynamic: str | None = None

    @classmethod
    def of(cls, folder: Location, entries: Sequence[Entry]) -> "SavedTable":
        """Returns the table that all of `entries` are parts of."""
        first = entries[0]
        row_count, columns = first["num_embeddings"], first["embedding_dim"]
        state = [name for name in first["tensors"] if name != "weight"]
        shapes = {n: first["tensors"][n]["shape"] for n in ["weight", *state]}
        return cls(
            folder=folder,
            entries=entries,
            name=first["table"],
            num_embeddings=row_count,
            tensors={n: (row_count, columns) if len(shape) == 2 else (row_count,) for n, shape in shapes.items()},
            embedding_dim=columns,
            dtype=first["dtype"],
            optimizer=first["optimizer"],
            physical_dim=first["physical_dim"],
            dynamic=first.get("dynamic"),
        )


def saved_tables(folder: Location, entries: Sequence[Entry]) -> dict[str, SavedTable]:
    """Returns the tables of a checkpoint by name, in the order of its manifest."""
    return {name: SavedTable.of(folder, of_table) for name, of_table in entries_by_table(entries).items()}


class _Reader:
    """A reader copies rows of one tensor, asked for in ascending order, and keeps one chunk of each file in use."""

    def __init__(self, table: SavedRows, tensor: str) -> None:
        self._table, self._tensor = table, tensor
        self._title = f"{table.word} {table.name!r}"
        self._chunks: dict[str, tuple[Scratch, int, Tensor]] = {}

    def fill(self, target: Tensor, start: int) -> None:
        """Copies rows from `start` on into `target`, [n, columns] or [n]."""
        stop, filled = start + len(target), 0
        for entry in self._table.entries:
            if self._tensor not in entry["tensors"]:
                file = self._table.folder / entry["file"]
                raise UserError(f"{file}: holds no {self._tensor!r} of {self._title}; {REPLACE}")
            shape = entry["tensors"][self._tensor]["shape"]
            top, end = entry["row"], entry["row"] + shape[0]
            at, bottom = max(start, top), min(stop, end)
            while at < bottom:
                first, rows = self._chunk(entry, at - top)
                part = rows[at - top - first : bottom - top - first]
                filled += _copied(part, target[at - start : at - start + len(part)], entry["column"])
                at += len(part)
            if end <= stop:
                self._chunks.pop(entry["file"], None)
        if filled != target.numel():
            where = f"{self._table.folder}: the files of {self._title}"
            raise UserError(f"{where} hold {filled} of {target.numel()} values of rows {start} to {stop}; {REPLACE}")

    def _chunk(self, entry: Entry, row: int) -> tuple[int, Tensor]:
        """Returns (first row, rows) of the chunk of a file that its `row` is in."""
        scratch, first, rows = self._chunks.get(entry["file"], (Scratch(), 0, torch.empty(0)))
        if not first <= row < first + len(rows):
            path = self._table.folder / entry["file"]
            ((first, rows),) = chunks(path, entry, self._tensor, row, row + 1, scratch)
            self._chunks[entry["file"]] = (scratch, first, rows)
        return first, rows


def _copied(part: Tensor, target: Tensor, column: int) -> int:
    """Copies a file's rows to where they belong in the table's, and returns how many values that is.

    What is one number a row is equal in all column-wise shards; that of the first counts.
    """
    if target.dim() == 2:
        target[:, column : column + part.shape[1]] = part
    elif column == 0:
        target.copy_(part)
    else:
        return 0
    return part.numel()


def _end(tensor: Entry) -> int:
    """Returns where a tensor's bytes end in its file."""
    return int(tensor["start"]) + tensor["shape"][0] * saved_row_bytes(tensor)
