"""An error of the operating system says which file it was about; a full disk is the user's to mend."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shardrec.data_pipeline.errors import UserError

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


@contextmanager
def full_disk_named(folder: Path, way_on: Callable[[], str]) -> Iterator[None]:
    """Makes a full disk a UserError, which no launcher tries again, and which names the file and the way on.

    folder: what is named where the error names no file. way_on: says what to do once there is room.
    """
    try:
        with about(folder):
            yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; make room, then {way_on()}") from error
