"""A file with one large JSON object is read entry by entry, in memory of a block and an entry."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.prepare.steps.streams import Text

LARGEST_ENTRY = 4 << 20
"""Bytes of the largest entry that is read: Python's objects take up to twenty times the memory of their text."""

_BLOCK_BYTES = 1 << 20
_BLANKS = " \t\r\n"


def entries(path: str) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of `{"key": value, ...}`. Raises UserError for what is no such JSON, after what is."""
    with Text(path) as text:
        reader = _Reader(path, text)
        if not reader.take("{"):
            raise reader.error(f"found {reader.ahead()!r} where an object begins")
        if not reader.take("}"):
            while True:
                key = reader.value()
                if not isinstance(key, str) or not reader.take(":"):
                    raise reader.error(f"found {shortened(key)} and {reader.ahead()!r}, expected a name and a colon")
                yield key, reader.value()
                if reader.take("}"):
                    break
                if not reader.take(","):
                    raise reader.error(f"found {reader.ahead()!r} after item {shortened(key)!r}")
        if reader.more():
            raise reader.error(f"found {reader.ahead()!r} behind the object")


class _Reader:
    """A reader takes signs and values from a text, of which it holds what is not taken yet."""

    def __init__(self, path: str, text: Text) -> None:
        self._path, self._text = path, text
        self._held, self._at = "", 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._ended = False
        self._decoder = json.JSONDecoder()

    def error(self, problem: str) -> UserError:
        """Returns the error that there is something else than an object of lists."""
        return UserError(f'{self._path}: not JSON: {problem}; expected {{"item": [attribute, ...], ...}}')

    def more(self) -> bool:
        """Goes to what is next and is not blank; tells whether there is anything."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _BLANKS:
                self._at += 1
            if self._at < len(self._held):
                return True
            if not self._grow():
                return False

    def ahead(self) -> str:
        """Returns the beginning of what is next."""
        return shortened(self._held[self._at : self._at + 20])

    def take(self, sign: str) -> bool:
        """Tells whether `sign` is next, and passes over it."""
        found = self.more() and self._held[self._at] == sign
        self._at += found
        return found

    def value(self) -> Any:
        """Returns the value that is next. Raises UserError where there is none, or where it is too large."""
        while True:
            if not self.more():
                raise self.error("it ends within an entry")
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
                if end < len(self._held) or self._ended:  # else a number may go on
                    self._at = end
                    return value
                problem = "it ends within an entry"
            except (ValueError, RecursionError) as error:
                problem = shortened(getattr(error, "msg", str(error)))
            if len(self._held) - self._at > LARGEST_ENTRY:
                raise self.error(f"{problem}, in an entry of more than {readable(LARGEST_ENTRY)}")
            if not self._grow():
                raise self.error(problem)

    def _grow(self) -> bool:
        """Reads on; tells whether there was more. What is held doubles, so that a large entry is tried few times."""
        self._held, self._at = self._held[self._at :], 0
        block = self._text.read(max(_BLOCK_BYTES, len(self._held)))
        self._ended = not block
        try:
            self._held += self._utf8.decode(block, self._ended)
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path}: not utf-8: {error.reason}") from None
        return bool(block)
