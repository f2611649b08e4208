"""Input files are opened as streams of bytes or of UTF-8 text, decompressed by what they begin with, not by name."""

import codecs
import os
from typing import Any

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError, shortened

COMPRESSED = ("", ".gz", ".bz2", ".zst", ".lz4")
"""What is behind a published file's name where it is compressed in a way that is read; plain comes first."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    **{b"BZh%d" % level + begun: "bz2" for level in range(1, 10) for begun in (b"1AY&SY", b"\x17rE8P\x90")},
}
_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\xfd7zXZ\x00": "compressed by xz; unpack it, or compress it by gzip, bz2 or zstd",
    b"PAR1": "a Parquet file, and text is expected; a schema.yaml beside Parquet files is enough to train on them",
}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_MAGIC = 10
_EMPTY_AT_MOST = 64  # bytes of what a compressor writes for nothing


def open_bytes(path: str) -> Any:
    """Opens a file's bytes, decompressed. Raises UserError for one that cannot be read, and for what is never text."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(_LONGEST_MAGIC)
        for magic, what in _NOT_TEXT.items():
            if beginning.startswith(magic):
                raise UserError(f"{path}: is {what}")
        compression = next((name for magic, name in _MAGIC.items() if beginning.startswith(magic)), None)
        return pa.input_stream(path, compression=compression)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def is_empty(path: str) -> bool:
    """Tells whether a file holds nothing, compressed or not. One that cannot be read is not empty."""
    try:
        size = os.stat(path).st_size
        if not 0 < size <= _EMPTY_AT_MOST:
            return not size
        with open_bytes(path) as stream:
            return not stream.read(1)
    except (OSError, UserError):
        return False


class Text:
    """A text is a file's content as UTF-8, whatever its encoding, without byte order mark; a context that closes it."""

    def __init__(self, path: str, encoding: str = "utf-8") -> None:
        """Opens the file. Raises UserError for one that cannot be read."""
        self._path, self._encoding = path, encoding
        self._utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._stream = open_bytes(path)
        self._begun = False
        self._ended = False
        self._lines = 0

    def __enter__(self) -> "Text":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """Returns about `size` bytes of text, b"" at its end. What is UTF-8 already is not checked here.

        Raises UserError (file, line) for what is damaged or in another encoding.
        """
        text = b""
        while not text and not self._ended:
            block = self._bytes(max(size, len(codecs.BOM_UTF8)))
            self._ended = not block
            text = block if self._utf8 else self._decoded(block)
            if text and not self._begun:
                self._begun = True
                self._check_beginning(text)
                text = text.removeprefix(codecs.BOM_UTF8)
        return text

    def _bytes(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._path}: damaged: {shortened(str(error))}; fetch or write it again") from None

    def _check_beginning(self, text: bytes) -> None:
        if self._utf8 and text.startswith(_UTF_16):
            raise UserError(
                f"{self._path}: begins as UTF-16 does, expected {self._encoding}; set `encoding` in a recipe"
            )

    def _decoded(self, block: bytes) -> bytes:
        try:
            text = self._decoder.decode(block, not block).encode()
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(self._encoding, "ignore").encode(errors="ignore")
            line = 1 + self._lines + line_ends(before)
            raise UserError(f"{self._path}, line {line}: not {self._encoding}: {shortened(error.reason)}") from None
        except UnicodeError as error:
            raise UserError(f"{self._path}: not {self._encoding}: {shortened(str(error))}") from None
        self._lines += line_ends(text)
        return text


def line_ends(text: bytes, stop: int | None = None) -> int:
    """Returns how many lines end in UTF-8 text, before index `stop`: by LF, CR LF or CR."""
    returns = text.count(b"\r", 0, stop)
    return text.count(b"\n", 0, stop) + (returns - text.count(b"\r\n", 0, stop) if returns else 0)
