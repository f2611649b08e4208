"""Text files are read as blocks of whole lines, plain or gzip, in bounded memory."""

import io
from collections.abc import Iterator
from typing import NamedTuple

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.steps.text import open_bytes

BLOCK_BYTES = 8 << 20


class Lines(NamedTuple):
    """Lines are consecutive ones of a file: their bytes, line ends included, and the first one's number (from 1)."""

    data: bytes
    first: int

    def line_of(self, at: int) -> int:
        """Returns the number of the line that the byte at index `at` is in."""
        return self.first + self.data.count(b"\n", 0, at)

    def text(self, path: str) -> str:
        """Returns the lines decoded, without byte order mark. Raises UserError (file, line) for what is not UTF-8."""
        try:
            return self.data.decode().removeprefix("\ufeff" if self.first == 1 else "")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {self.line_of(error.start)}: not utf-8: {error.reason}") from None

    def numbered(self, path: str) -> Iterator[tuple[int, str]]:
        """Yields (number, line) of each that is not blank."""
        for number, line in enumerate(self.text(path).split("\n"), self.first):
            if line.strip():
                yield number, line


def line_blocks(path: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Lines]:
    """Yields a file's lines in order. Raises UserError for one that cannot be read or decompressed."""
    first = 1
    with open_bytes(path) as stream:
        try:
            reader = io.BufferedReader(stream, block_bytes)
            while data := reader.read(block_bytes):
                lines = Lines(data + reader.readline(), first)
                yield lines
                first += lines.data.count(b"\n")
        except OSError as error:
            raise UserError(f"{path}: damaged: {error}; fetch or write it again") from None
