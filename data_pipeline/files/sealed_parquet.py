"""Parquet files that this program writes notice flipped bytes: pages have checksums, and the footer has a seal.

Parquet has checksums for pages, but none for the footer, where names, types and places of columns are. The seal is 24
bytes between the last page and the footer, where no reader looks: a name and the footer's BLAKE2b. So a sealed file is
plain Parquet for every program. Files of other programs are read by the same functions; what they have is checked.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from shardrec.data_pipeline.stores.filesystems import opened
from shardrec.data_pipeline.stores.retries import is_away, tried

SEAL = b"SHARDREC"
SEAL_BYTES = 24

MAGIC = b"PAR1"

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a Parquet file may raise where it is damaged, not Parquet, or cannot be reached."""

_DAMAGED_BITS = 8  # of a seal's name; by chance one file in some billions has as many like it

_LENGTH_AND_MAGIC = 8  # the end of every Parquet file: how long its footer is, and MAGIC
_TAIL_BYTES = 1 << 16  # read at once; a longer footer takes a second read


# ---------------------------------------------------------------- writing


class SealedWriter(pq.ParquetWriter):
    """A sealed writer writes one Parquet file with page checksums, compressed by zstd unless asked otherwise."""

    def __init__(self, path: str | Path, schema: pa.Schema, **options: Any) -> None:
        """Opens the file; `options` are those of `pyarrow.parquet.ParquetWriter`."""
        self._sealed = Path(path)
        super().__init__(path, schema, **{"compression": "zstd", **options, "write_page_checksum": True})

    def close(self) -> None:
        """Writes the footer and seals it; a second time does nothing."""
        if self.is_open:
            super().close()
            if self._sealed.exists():  # its folder may have been given up
                _seal(self._sealed)


def write_sealed(table: pa.Table, path: str | Path, *, row_group_size: int | None = None, **options: Any) -> None:
    """Writes a whole table as one sealed Parquet file; `options` are those of `SealedWriter`."""
    with SealedWriter(path, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=row_group_size)


def _seal(path: Path) -> None:
    """Puts a seal before a file's footer."""
    with path.open("r+b") as file:
        file.seek(-_LENGTH_AND_MAGIC, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        start = file.seek(-_LENGTH_AND_MAGIC - length, os.SEEK_END)
        end = file.read()
        file.seek(start)
        file.write(_seal_of(end[:length]) + end)


def _seal_of(footer: bytes) -> bytes:
    return SEAL + hashlib.blake2b(footer, digest_size=SEAL_BYTES - len(SEAL)).digest()


def _is_seal(found: bytes) -> bool:
    """Tells whether bytes before a footer are a seal, be it a damaged one: a few bits of its name may be others."""
    name = int.from_bytes(found[: len(SEAL)], "big") ^ int.from_bytes(SEAL, "big")
    return len(found) == SEAL_BYTES and name.bit_count() <= _DAMAGED_BITS


# ---------------------------------------------------------------- reading


class Footer(NamedTuple):
    """A footer is a Parquet file's: what it says, and a hash of its bytes."""

    metadata: pq.FileMetaData
    digest: bytes

    @classmethod
    def read(cls, source: pa.NativeFile) -> "Footer":
        """Reads and checks an open file's footer. Raises one of `UNREADABLE` for none, and for a broken seal."""
        size = source.size()
        if size < 3 * len(MAGIC):
            raise OSError(f"{size} bytes are no Parquet file")
        tail = bytes(source.read_at(min(_TAIL_BYTES, size), max(size - _TAIL_BYTES, 0)))
        if tail[-4:] != MAGIC:
            raise OSError("it does not end as Parquet files do")
        length = int.from_bytes(tail[-8:-4], "little")
        if not 0 < length <= size - 3 * len(MAGIC):
            raise OSError(f"its footer would be {length} bytes long")
        needed = min(length + SEAL_BYTES + _LENGTH_AND_MAGIC, size)
        if needed > len(tail):
            tail = bytes(source.read_at(needed, size - needed))
        start = len(tail) - _LENGTH_AND_MAGIC - length
        footer, seal = tail[start : start + length], tail[max(start - SEAL_BYTES, 0) : start]
        if _is_seal(seal) and seal != _seal_of(footer):
            raise OSError("its footer is not what was written")
        metadata = pq.read_metadata(pa.BufferReader(MAGIC + tail[start:]))
        return cls(metadata, hashlib.blake2b(footer, digest_size=16).digest())


def open_checked(source: pa.NativeFile, footer: Footer, **options: Any) -> pq.ParquetFile:
    """Opens a file whose footer was read; pages that have checksums are checked as they are decoded."""
    return pq.ParquetFile(source, metadata=footer.metadata, page_checksum_verification=True, **options)


def footer_digest(place: str) -> bytes | None:
    """Returns the hash of a file's footer, by path or URI; None where it cannot be read."""

    def read() -> bytes:
        with _source(place) as source:
            return Footer.read(source).digest

    try:
        return tried(read, f"{place}: read", again=is_away)
    except UNREADABLE:
        return None


def read_checked(place: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a whole Parquet file, by path or URI, in some columns (None: all). Raises one of `UNREADABLE`."""

    def read() -> pa.Table:
        with _source(place) as source:
            return open_checked(source, Footer.read(source), pre_buffer=False).read(columns)

    return tried(read, f"{place}: read", again=is_away)


def _source(place: str) -> pa.NativeFile:
    filesystem, path = opened(place) if "://" in place else (pafs.LocalFileSystem(), place)
    return filesystem.open_input_file(path)
