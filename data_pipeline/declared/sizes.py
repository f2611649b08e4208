"""Sizes in bytes are written and read as people write them."""

import re
from typing import Any


def readable(count: int) -> str:
    """Returns a number of bytes with a binary unit: `1.5 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def parse_bytes(value: Any) -> Any:
    """Returns the bytes of `512MB`, `1GiB` or `2e9`; a value that is not text passes through.

    Raises ValueError for what is no size, or one that no machine has.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.eE+]+)\s*([kKMGT]?)(i?)B?\s*", value)
    if not match:
        raise ValueError("expected a size such as 512MB or 1GiB")
    number, unit, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper()) if unit else 0)
    if not 0 <= size < 2**63:
        raise ValueError("expected a size below 8 EiB, such as 512MB or 1GiB")
    return int(size)
