"""A checksum tells a damaged file of a bundle: it is of all its bytes or, of a large one, of blocks of it."""

import zlib
from pathlib import Path

BLOCK_BYTES = 64 << 10
MOST_BLOCKS = 128
"""A larger file is read in so many blocks, from its first bytes to its last: it opens as fast, whatever its size."""


def checksum(path: Path) -> int:
    """Returns the CRC-32 of a file's bytes; of more than `MOST_BLOCKS` blocks, of as many evenly spread ones."""
    size, found = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in _starts(size):
            file.seek(start)
            found = zlib.crc32(file.read(BLOCK_BYTES), found)
    return found


def _starts(size: int) -> list[int]:
    if size <= MOST_BLOCKS * BLOCK_BYTES:
        return list(range(0, size, BLOCK_BYTES))
    return [(size - BLOCK_BYTES) * i // (MOST_BLOCKS - 1) for i in range(MOST_BLOCKS)]
