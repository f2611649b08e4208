"""An error of the operating system says which file it was about."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What systems say where a file cannot become larger: the disk, the user's share of it, or what a file may have."""


@contextmanager
def about(path: str | Path) -> Iterator[None]:
    """Gives an OSError that names no file this one: a full disk is met in `write`, which knows only a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
