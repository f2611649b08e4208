"""A catalogue has one row an item, by ascending item; it is made of a whole data set, read once and in order."""

from collections.abc import Iterator

import numpy as np

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.gaps import GapReader
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.reading.parquet import Chunk, RangeReader

READ_ROWS, READ_FOOTER_BYTES = 65_536, 64 << 20
"""Rows read at once, and memory for the footers of files that are read in turns."""


class FirstRows:
    """These are the first rows of each item seen so far. Memory grows with the items."""

    def __init__(self, item: int) -> None:
        """Starts without items; `item` is their feature's row among a block's `ids`."""
        self._item = item
        self._parts: list[Block] = []
        self._rows = self._limit = 0

    def add(self, block: Block) -> None:
        """Adds the rows of the items that a block is the first to have."""
        _, first = np.unique(block.ids[self._item], return_index=True)
        self._parts.append(block.take(first))
        self._rows += len(first)
        if self._rows > self._limit:
            self._parts = [self.block()]
            self._rows = self._parts[0].rows
            self._limit = 2 * max(self._rows, READ_ROWS)

    def block(self) -> Block:
        """Returns one row an item, by ascending item."""
        joined = Block.join(self._parts)
        _, first = np.unique(joined.ids[self._item], return_index=True)
        return joined.take(first)


def items_of(index: Index, layout: Layout, item: str) -> Block:
    """Reads a file of items as a catalogue. Raises UserError for an item that it has twice."""
    block = Block.join([layout.block(chunk) for chunk in chunks_of(index, layout)])
    items = block.ids[layout.id_row(item)]
    order = np.argsort(items, kind="stable")
    twice = np.flatnonzero(items[order][1:] == items[order][:-1])
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        raise UserError(
            f"{index.files[0].path}: rows {first} and {second} are of one {item} (table row {items[first]}); "
            "data.negatives.items needs one row an item"
        )
    return block.take(order)


def chunks_of(index: Index, layout: Layout, *, skips_bad: bool = False) -> Iterator[Chunk]:
    """Yields all rows of a data set in order, with the columns of `layout`. Raises as `Layout.check` does.

    skips_bad: without those that cannot be read.
    """
    layout.check(index)
    reader = RangeReader(
        index,
        layout.columns,
        chunk_rows=READ_ROWS,
        whole_rows=READ_ROWS,
        footer_memory=READ_FOOTER_BYTES,
        on_decoded=lambda rows: None,
    )
    if not skips_bad:
        return reader.read(0, index.num_rows)
    found = GapReader(reader, on_gap=lambda gap: None).read(0, index.num_rows)
    return (chunk for chunk in found if isinstance(chunk, Chunk))
