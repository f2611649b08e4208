"""A reader process decodes some lanes of a rank and sends their rows, step by step, to the rank's process.

It is a process of its own, started by `reader_pool.py`: a thread that decodes shares Python's lock with training.
"""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.block_channel import Channel
from shardrec.data_pipeline.loading.footprint import Footprint
from shardrec.data_pipeline.loading.lanes import LaneReader
from shardrec.data_pipeline.loading.prefetch import prefetched
from shardrec.data_pipeline.reading.blocks import Block, Lists
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.gaps import Gap, GapReader
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.reading.order import Order, Share
from shardrec.data_pipeline.reading.parquet import RangeReader

STEPS_AHEAD = 2
"""Steps that a reader has ready beside the one that it makes."""


@dataclass(frozen=True)
class Reading:
    """A reading is what a reader reads, and by which means.

    memory: bytes for chunks that several ranges touch. gaps: rows that cannot be read any more are left out.
    """

    index: Index
    layout: Layout
    order: Order
    footprint: Footprint
    memory: int
    shares: tuple[Share, ...]
    gaps: bool = False

    def lanes(self, epoch: int, start_step: int, on_decoded: "Decoded") -> LaneReader:
        """Returns the rows of an epoch, from a step on."""
        reader = RangeReader(
            self.index,
            self.layout.columns,
            chunk_rows=self.footprint.chunk_rows,
            whole_rows=self.footprint.whole_rows,
            footer_memory=self.footprint.footer_bytes,
            on_decoded=on_decoded.add,
        )
        return LaneReader(
            self.order,
            self.layout,
            GapReader(reader, on_decoded.gaps.append) if self.gaps else reader,
            list(self.shares),
            epoch=epoch,
            start_step=start_step,
            footprint=self.footprint,
            memory=self.memory,
        )


class Decoded:
    """Decoded is how many rows pyarrow has decoded since it was last taken, and the gaps that were met."""

    def __init__(self) -> None:
        self._rows = 0
        self.gaps: list[Gap] = []

    def add(self, rows: int) -> None:
        """Counts rows."""
        self._rows += rows

    def taken(self) -> tuple[int, list[Gap]]:
        """Returns the count and the gaps, and starts anew."""
        rows, self._rows = self._rows, 0
        gaps = self.gaps[:]
        self.gaps.clear()
        return rows, gaps


class Part(NamedTuple):
    """A part is a reader's rows of one step, if there are any, how many rows were decoded for it, and gaps met."""

    block: Block | None
    decoded: int
    gaps: list[Gap]


def parts(reading: Reading, epoch: int, start_step: int) -> Iterator[Part]:
    """Yields a reader's part of each step."""
    decoded = Decoded()
    with closing(reading.lanes(epoch, start_step, decoded)) as lanes:
        for step in range(start_step, reading.order.steps_per_epoch):
            blocks = lanes.take(step)
            yield Part(_contiguous(Block.join(blocks)) if blocks else None, *decoded.taken())


def _contiguous(block: Block) -> Block:
    """Returns a block whose arrays hold its own rows alone, which travel without a copy in Python."""
    return Block(
        np.ascontiguousarray(block.ids),
        tuple(Lists.join([lists]) for lists in block.lists),
        np.ascontiguousarray(block.numbers),
        np.ascontiguousarray(block.places),
        block.extra.combine_chunks() if block.extra.num_columns else block.extra,
    )


def serve(channel: Channel) -> None:
    """Takes a `Reading`, then sends the parts of one (epoch, step to start from) after another, until nobody listens.

    A UserError is sent in place of the part that it is about.
    """
    reading: Reading = channel.receive()
    while True:
        epoch, start_step = channel.receive()
        try:
            with closing(prefetched(parts(reading, epoch, start_step), STEPS_AHEAD)) as ahead:
                for part in ahead:
                    channel.send(part)
        except UserError as error:
            channel.send(error)


def main() -> None:
    """Serves the socket whose number is the last argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains, which ends this one
    pa.set_cpu_count(1)
    channel = Channel(socket.socket(fileno=int(sys.argv[-1])))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(channel)


if __name__ == "__main__":
    main()
