"""How much memory decoding takes: what decides how many lanes fit, and what is decoded at once.

Row groups that are small as blocks (or runs of smaller ones) are decoded whole, one after another, which keeps one
decoder open instead of one per lane and is about twice as fast; of larger ones some chunks are decoded at a time.
"""

from dataclasses import dataclass

from data_pipeline.collate import Layout
from data_pipeline.parquet import Index

CHUNK_ROWS = 16_384
"""Rows decoded by a call: enough to hide the cost per call of some 50 columns, few enough to stay in a core's cache."""

CHUNK_BYTES = 8 << 20
"""Rows of long lists are decoded fewer by a call: about so many bytes."""

RUN_ROWS = 65_536
"""Smaller row groups are decoded in runs of up to so many rows."""

RUN_BYTES = 24 << 20
"""Row groups up to this size as blocks are decoded whole: about what an open decoder of 40 columns would hold."""


@dataclass(frozen=True)
class Footprint:
    """Sizes of one data set under one layout.

    row_bytes: of a row in a block (estimated for lists)
    decoder_bytes: of an open decoder of the columns read, for the largest row group
    chunk_rows: rows decoded by a call, at most
    whole_rows: row groups of up to so many rows are decoded at once
    largest: rows of the largest row group
    """

    row_bytes: float
    decoder_bytes: int
    chunk_rows: int
    whole_rows: int
    largest: int

    @classmethod
    def of(cls, layout: Layout, index: Index) -> "Footprint":
        row_bytes = layout.row_bytes(index.values_per_row)
        return cls(
            row_bytes,
            sum(index.sample.decoder_bytes.get(column, 0) for column in layout.columns),
            int(min(max(CHUNK_BYTES // row_bytes, 256), CHUNK_ROWS)),
            int(RUN_BYTES // row_bytes),
            int(index.group_rows.max()),
        )

    @property
    def run_rows(self) -> int:
        """Rows of a run of small row groups, at most."""
        return min(RUN_ROWS, self.whole_rows)

    @property
    def chunks_ahead(self) -> int:
        """Chunks of a larger row group that are decoded in one go."""
        return max(self.run_rows // self.chunk_rows, 1)

    def lane_bytes(self, window: int) -> int:
        """Of an open lane: rows that wait for their turn, a window, and for larger row groups a decoder and its chunk.

        A chunk is taken to be twice as wide in Arrow as in a block.
        """
        waiting = max(self.run_rows, self.largest if self.largest <= self.whole_rows else self.chunk_rows)
        decoder = self.decoder_bytes if self.largest > self.whole_rows else 0
        chunk = 2 * self.chunk_rows if decoder else 0
        return int(decoder + (waiting + window + chunk) * self.row_bytes)

    def reader_bytes(self, lanes: int, window: int, batch_rows: int, batches: int) -> int:
        """Of so many open lanes, and batches made ahead (three times as wide as blocks: 64-bit ids and lengths)."""
        making = self.decoder_bytes + (3 * self.chunk_rows + 2 * window) * self.row_bytes  # of one lane at a time
        return int(lanes * self.lane_bytes(window) + making + batches * batch_rows * 3 * self.row_bytes)
