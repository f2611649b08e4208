"""The memory that decoding takes decides how many lanes fit, and what is decoded at once.

Row groups that are small as blocks (or runs of smaller ones) are decoded whole, one after another, which keeps one
decoder open instead of one per lane and is about twice as fast; of larger ones some chunks are decoded at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.reading.order import MOST_DEFAULT_LANES

CHUNK_ROWS = 16_384
"""Rows decoded by a call: enough to hide the cost per call of some 50 columns, few enough to stay in a core's cache."""

CHUNK_BYTES = 8 << 20
"""Rows of long lists are decoded fewer by a call: about so many bytes."""

RUN_ROWS = 65_536
"""Smaller row groups are decoded in runs of up to so many rows."""

RUN_BYTES = 24 << 20
"""Row groups up to this size as blocks are decoded whole: about what an open decoder of 40 columns would hold."""

VALUE_BYTES = 24
"""What a value of a list takes while its row is read (measured): Arrow's array and levels, its id, copies of it."""

BATCH_WIDTH = 3
"""A batch takes about three times the memory of its rows in blocks."""

FOOTER_SHARE = 8
"""Footers of files that are read in turns may take 1/8 of the memory (one is always open)."""


@dataclass(frozen=True)
class Footprint:
    """A footprint is the sizes of one data set under one layout.

    row_bytes: of a row in a block (estimated for lists)
    decoder_bytes: of an open decoder of the columns read, for the largest row group
    footer_bytes: of the footers that are kept open
    chunk_rows: rows decoded by a call, at most
    whole_rows: row groups of up to so many rows are decoded at once
    largest: rows of the largest row group
    all_kept: whether all rows fit, so that every row group is decoded at once and kept while a lane needs it
    """

    row_bytes: float
    decoder_bytes: int
    footer_bytes: int
    chunk_rows: int
    whole_rows: int
    largest: int
    all_kept: bool

    @classmethod
    def of(cls, layout: Layout, index: Index, *, memory: int, window: int, batch_rows: int) -> "Footprint":
        """Estimates how much is decoded at once, and what of it is kept, from sizes of rows and row groups.

        memory: bytes for all of reading
        batch_rows: rows of a rank's batches, those made ahead included
        """
        row_bytes = layout.row_bytes(index.values_per_row)
        whole_rows, largest = int(RUN_BYTES // row_bytes), int(index.group_rows.max())
        footers = [index.footer_bytes(file) for file in range(len(index.files))]
        footprint = cls(
            row_bytes,
            sum(index.sample.decoder_bytes.get(column, 0) for column in layout.columns),
            min(sum(footers), max(*footers, memory // FOOTER_SHARE)),
            _chunk_rows(row_bytes, index, layout.columns, memory),
            whole_rows,
            largest,
            all_kept=True,
        )
        kept = index.num_rows * row_bytes + footprint.reader_bytes(MOST_DEFAULT_LANES, window, batch_rows)
        return replace(footprint, all_kept=kept <= memory)

    @property
    def run_rows(self) -> int:
        """Returns the rows of a run of small row groups, at most."""
        return min(RUN_ROWS, self.whole_rows)

    @property
    def chunks_ahead(self) -> int:
        """Returns how many chunks of a larger row group are decoded in one go."""
        return max(self.run_rows // self.chunk_rows, 1)

    @property
    def _decoded_rows(self) -> int:
        """Returns the rows that are decoded at once, at most."""
        return max(self.run_rows, self.largest if self.largest <= self.whole_rows else self.chunk_rows)

    def lane_bytes(self, window: int) -> int:
        """Returns the bytes of an open lane.

        It holds a window, decoded rows that wait for their turn, and for large row groups an open decoder. A chunk is
        taken to be twice as wide in Arrow as in a block.
        """
        if self.all_kept:
            return int(window * self.row_bytes)
        decoder = self.decoder_bytes + 2 * self.chunk_rows * self.row_bytes if self.largest > self.whole_rows else 0
        return int(decoder + (self._decoded_rows + window) * self.row_bytes)

    def reader_bytes(self, lanes: int, window: int, batch_rows: int, readers: int = 1) -> int:
        """Returns the bytes of so many lanes, one of each reader's decoding, and of batches."""
        decoding = self.decoder_bytes + (self._decoded_rows + 3 * self.chunk_rows + 2 * window) * self.row_bytes
        of_readers = readers * (decoding + self.footer_bytes)
        return int(lanes * self.lane_bytes(window) + of_readers + batch_rows * BATCH_WIDTH * self.row_bytes)


def _chunk_rows(row_bytes: float, index: Index, columns: Iterable[str], memory: int) -> int:
    """Returns how many rows a call decodes: fewer where lists are long that only in part become ids."""
    decoded = VALUE_BYTES * sum(index.long_rows[c].values for c in columns if c in index.long_rows)
    most = max(int(memory / 4 // decoded), 1) if decoded else CHUNK_ROWS
    return int(min(max(CHUNK_BYTES // row_bytes, 256), CHUNK_ROWS, most))


def check_long_rows(index: Index, columns: Iterable[str], memory: int) -> None:
    """Raises UserError where one row's list may take more than `memory` bytes while it is read: see `LongRow`."""
    for column in columns:
        row = index.long_rows.get(column)
        if row is not None and row.values * VALUE_BYTES > memory:
            needed = row.values * VALUE_BYTES
            raise UserError(
                f"{row.file}: row group {row.group}: column {column!r} may have {row.values:,.0f} values in one row, "
                f"and reading them takes {needed / 2**20:,.0f} MiB, over data.memory of {memory / 2**20:,.0f} MiB; "
                "cut such rows, write smaller row groups, or give more memory"
            )
