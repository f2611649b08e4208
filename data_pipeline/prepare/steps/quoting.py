"""Fields may be in quotes, with delimiters, line breaks and doubled quotes in them (RFC 4180).

A quote opens at the beginning of a field only; elsewhere it is a character like others, as in Python's csv module.
"""

from typing import NamedTuple

import numpy as np

from shardrec.data_pipeline.errors import UserError

_LF, _CR = b"\n\r"
_FREE = bytes([*range(0x1F, 0, -1), *range(0x7E, 0x1F, -1)]).translate(None, b"\n\r")


class Quoted(NamedTuple):
    """Quoted parts of some text are [starts[i], ends[i]): from an opening quote to the one that closes it.

    ends: one fewer than starts where the last quote is not closed
    """

    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, text: bytes, quote: bytes | None, delimiter: bytes) -> "Quoted":
        """Finds the quoted parts of text that begins with a record; delimiter: one byte."""
        if not quote or quote not in text:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        raw = np.frombuffer(text, np.uint8)
        at = np.flatnonzero(raw == quote[0])
        before = raw[at[::2] - 1]
        opens = (before == delimiter[0]) | (before == _LF) | (before == _CR) | (before == quote[0])
        opens[0] |= at[0] == 0
        if opens.all():  # of every two quotes one opens and one closes; what is doubled closes and opens again
            return cls(at[::2], at[1::2])
        return cls._walked(text, at.tolist(), (delimiter[0], _LF, _CR))

    @classmethod
    def _walked(cls, text: bytes, at: list[int], ahead: tuple[int, ...]) -> "Quoted":
        """Does the same quote by quote, since some are characters of fields without quotes."""
        starts, ends, i = [], [], 0
        while i < len(at):
            if at[i] and text[at[i] - 1] not in ahead:
                i += 1
                continue
            starts.append(at[i])
            i += 1
            while i + 1 < len(at) and at[i + 1] == at[i] + 1:
                i += 2
            ends += at[i : i + 1]
            i += 1
        return cls(np.array(starts, np.int64), np.array(ends, np.int64))

    def hold(self, places: np.ndarray) -> np.ndarray:
        """Tells of each of [n] places whether it is inside a quoted part."""
        return np.searchsorted(self.starts, places) > np.searchsorted(self.ends, places)


class Quoting(NamedTuple):
    """Quoting says what is between fields (UTF-8, of any length), and which byte quotes them (None: nothing does)."""

    delimiter: bytes
    quote: bytes | None

    def quoted(self, text: bytes) -> Quoted:
        """Returns the quoted parts of text that begins with a record."""
        if not self.quote or self.quote not in text:
            return Quoted.of(b"", None, b"")
        marked, byte = self._marked(text)
        return Quoted.of(marked, self.quote, byte)

    def with_one_byte(self, text: bytes) -> tuple[bytes, bytes]:
        """Returns text with delimiters of one ASCII byte, and that byte; a delimiter in quotes stays as it is."""
        marked, byte = self._marked(text)
        if marked is text:
            return text, byte
        quoted = Quoted.of(marked, self.quote, byte)
        if len(quoted.starts):
            raw = np.frombuffer(marked, np.uint8)
            at = np.flatnonzero(raw == byte[0])
            at = at[quoted.hold(at)]
            if len(at):
                raw = raw.copy()
                raw[at] = np.frombuffer(text, np.uint8)[at]
                marked = raw.tobytes()
        return marked.replace(byte * len(self.delimiter), byte), byte

    def _marked(self, text: bytes) -> tuple[bytes, bytes]:
        """Returns text of the same length whose delimiters are made of one ASCII byte, and that byte.

        It occurs nowhere else. Raises UserError where each does.
        """
        if len(self.delimiter) == 1 and 0 < self.delimiter[0] < 0x7F:
            return text, self.delimiter
        for number in _FREE:
            byte = bytes([number])
            if byte not in text and byte != self.quote:
                return text.replace(self.delimiter, byte * len(self.delimiter)), byte
        raise UserError(f"delimiter {self.delimiter.decode()!r}: the text has every ASCII character; give a single one")
