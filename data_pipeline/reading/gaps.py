"""A gap is rows that cannot be read any more, where a run goes on without them: they keep their places in the order.

A row group is there as a whole or not at all, whoever reads which part of it, and so are the rows of a resumed run, or
of one with another number of workers, the same.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from shardrec.data_pipeline.reading.files import UnreadableError
from shardrec.data_pipeline.reading.parquet import Chunk, RangeReader


class Gap(NamedTuple):
    """A gap is consecutive rows of one row group, from place `place` of the data set on, and why they are left out."""

    place: int
    rows: int
    where: str
    group: int
    why: str


class GapReader:
    """A gap reader reads ranges as a range reader does, with gaps where that one raises UnreadableError.

    A row group is decoded to its end before the first of its rows is handed over; one that is too large to be in memory
    at once is decoded for that alone, the first time that some of it is needed. on_gap: is told of each gap.
    """

    def __init__(self, reader: RangeReader, on_gap: Callable[[Gap], None]) -> None:
        self.index = reader.index
        self._reader, self._on_gap = reader, on_gap
        self._sound: set[int] = set()  # large row groups that were decoded to their ends

    def read(self, start: int, stop: int) -> Iterator[Chunk | Gap]:
        """Yields rows start .. stop of the data set. Raises UserError for what is no damage."""
        index = self.index
        while start < stop:
            group = index.group_of(start)
            end = min(stop, index.group_bounds(group)[1])
            try:
                for chunk in self._whole(group, start, end):
                    start += chunk.rows
                    yield chunk
            except UnreadableError as error:
                gap = Gap(start, end - start, *self._named(group), str(error))
                self._on_gap(gap)
                yield gap
            start = end

    def _whole(self, group: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields rows of one row group. Raises UnreadableError where not all of it can be decoded, before the first."""
        begin, end = self.index.group_bounds(group)
        if end - begin > self._reader.whole_rows:
            if group not in self._sound:
                for _ in self._reader.read(begin, end):
                    pass
                self._sound.add(group)
            yield from self._reader.read(start, stop)
            return
        chunks = [chunk.part(start, stop) for chunk in self._reader.read(begin, end)]
        chunks.reverse()
        while chunks:
            if chunks[-1].rows:
                yield chunks.pop()  # so that a lane that waits for its turn holds no chunk
            else:
                chunks.pop()

    def _named(self, group: int) -> tuple[str, int]:
        """Returns a row group's file and its number in it."""
        file = self.index.file_of(group)
        return self.index.files[file].path, group - int(self.index.file_groups[file])
