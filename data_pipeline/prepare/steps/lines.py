"""Text files are read as blocks of whole lines in bounded memory; where fields may be quoted, whole records."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.steps.quoting import Quoted, Quoting
from shardrec.data_pipeline.prepare.steps.streams import Text, line_ends

BLOCK_BYTES = 8 << 20
LONGEST_LINE = 32 << 20
"""Bytes of the longest line, or record, that is read: what is longer is not a row of a log, and would fill memory."""

_FIRST_BYTES = 1 << 16
_PLAIN = Quoting(b",", None)


class Lines(NamedTuple):
    """Lines are consecutive ones of a file: UTF-8 with its line ends, and the first one's number (from 1)."""

    data: bytes
    first: int

    def line_of(self, at: int) -> int:
        """Returns the number of the line that the byte at index `at` is in."""
        return self.first + line_ends(self.data, at)

    def text(self, path: str) -> str:
        """Returns the lines decoded, with LF as line ends. Raises UserError (file, line) for what is not UTF-8."""
        try:
            text = self.data.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {self.line_of(error.start)}: not utf-8: {error.reason}") from None
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def numbered(self, path: str) -> Iterator[tuple[int, str]]:
        """Yields (number, line) of each that is not blank."""
        for number, line in enumerate(self.text(path).split("\n"), self.first):
            if line.strip():
                yield number, line

    def records(self, quoting: Quoting) -> np.ndarray:
        """Returns [n, 2] int64: where each record begins and ends, without its line end; empty lines are none."""
        raw = np.frombuffer(self.data, np.uint8)
        breaks = np.flatnonzero((raw == ord("\n")) | (raw == ord("\r")))
        breaks = breaks[~quoting.quoted(self.data).hold(breaks)]
        records = np.stack([np.append(0, breaks + 1), np.append(breaks, len(raw))], axis=1)
        return records[records[:, 1] > records[:, 0]]


def line_blocks(
    path: str,
    quoting: Quoting = _PLAIN,
    encoding: str = "utf-8",
    *,
    block_bytes: int | None = None,
    longest: int | None = None,
) -> Iterator[Lines]:
    """Yields a file's lines in order, about `block_bytes` at a time (None: BLOCK_BYTES); none is cut, nor a record.

    longest: bytes that a line may have at least (None: LONGEST_LINE)

    Raises UserError (file, line) for a file that cannot be read, a line that is too long, and a quote that stays open.
    """
    least = block_bytes or BLOCK_BYTES
    rest, first = b"", 1
    with Text(path, encoding) as text:
        while block := text.read(max(least, len(rest))):
            data = rest + block if rest else block
            quoted = quoting.quoted(data)
            end = _last_end(data, quoted)
            if end:
                lines, rest = Lines(data[:end], first), data[end:]
                first += line_ends(lines.data)
                yield lines
            elif len(data) > (longest or LONGEST_LINE):
                raise _too_long(path, Lines(data, first), quoted)
            else:
                rest = data
    if rest:
        lines = Lines(rest, first)
        quoted = quoting.quoted(rest)
        if len(quoted.starts) > len(quoted.ends):
            raise _left_open(path, lines, quoted, "and is never closed")
        yield lines


def first_record(path: str, quoting: Quoting = _PLAIN, encoding: str = "utf-8") -> Lines:
    """Returns a file's first record, without its line end. Raises UserError for an empty or unreadable file."""
    for lines in line_blocks(path, quoting, encoding, block_bytes=_FIRST_BYTES):
        records = lines.records(quoting)
        if len(records):
            begin, end = records[0].tolist()
            return Lines(lines.data[begin:end], lines.line_of(begin))
    raise UserError(f"{path}: is empty")


def first_line(path: str) -> str:
    """Returns the first line that is not empty, without its end. Raises UserError for an empty or unreadable file."""
    return first_record(path).text(path)


def _last_end(text: bytes, quoted: Quoted) -> int:
    """Returns where the last whole record ends, 0 where none does."""
    last = text.rfind(b"\n")
    if b"\r" in text:
        last = max(last, text.rfind(b"\r", 0, -1))  # LF may follow a CR at the end
    if last < 0 or not quoted.hold(np.array([last])).any():
        return 1 + last
    raw = np.frombuffer(text, np.uint8)[:last]
    breaks = np.flatnonzero((raw == ord("\n")) | (raw == ord("\r")))
    breaks = breaks[~quoted.hold(breaks)]
    return 1 + int(breaks[-1]) if len(breaks) else 0


def _too_long(path: str, lines: Lines, quoted: Quoted) -> UserError:
    if len(quoted.starts) > len(quoted.ends):
        return _left_open(path, lines, quoted, f"and is not closed within {readable(len(lines.data))}")
    longer = f"is longer than {readable(len(lines.data) - 1)}"
    return UserError(f"{path}, line {lines.first}: {longer}; expected a row a line: check that this is such a file")


def _left_open(path: str, lines: Lines, quoted: Quoted, problem: str) -> UserError:
    line = lines.line_of(int(quoted.starts[-1]))
    remedy = "close it, or read the file without quotes (`quote: null` in a recipe)"
    return UserError(f"{path}, line {line}: a quote opens a field {problem}; {remedy}")
