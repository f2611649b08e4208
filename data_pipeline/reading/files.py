"""A data file is opened in the way that suits what is read of it, and is noticed when it is no longer what it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE, Footer, open_checked
from shardrec.data_pipeline.stores.retries import is_away, tried

READ_BYTES, REMOTE_READ_BYTES = 1 << 16, 1 << 20
"""Bytes read at once, for each column, where a large row group is read piece by piece: from a disk, over a network."""


class UnreadableError(UserError):
    """Rows of a file cannot be read any more, or are others than there were; those of other files may be as ever."""


class Stamp(NamedTuple):
    """A stamp is how a file looks from outside; it changes when the file is replaced or rewritten.

    modified: nanoseconds; inode: of a local file; tag: of an object (ETag). 0 and "": not known
    """

    size: int
    modified: int = 0
    inode: int = 0
    tag: str = ""

    def difference(self, now: "Stamp") -> str | None:
        """Returns in words how a file looks otherwise now; None where it looks the same."""
        if self.size != now.size:
            return f"{self.size} bytes then, {now.size} now"
        if self.tag != now.tag:
            return f"ETag {self.tag} then, {now.tag} now"
        if self.modified != now.modified:
            return f"modified {_clock(self.modified)} then, {_clock(now.modified)} now"
        return f"inode {self.inode} then, {now.inode} now" if self.inode != now.inode else None


class Opened(NamedTuple):
    """An opened file has its Parquet reader, how it looked just before, and the hash of its footer."""

    parquet: pq.ParquetFile
    stamp: Stamp
    digest: bytes


class File(NamedTuple):
    """A file is one Parquet file: its path within its file system, and its size in bytes."""

    filesystem: pafs.FileSystem
    path: str
    size: int

    @property
    def remote(self) -> bool:
        """Tells whether the file lies behind a network."""
        return not isinstance(self.filesystem, pafs.LocalFileSystem)

    def open(self, *, piecewise: bool) -> Opened:
        """Reads the footer, as `_open` does; where a store fails, again. Raises StoreError as `tried`."""
        return tried(lambda: self._open(piecewise=piecewise), f"{self.path}: opened", again=is_away)

    def _open(self, *, piecewise: bool) -> Opened:
        """Reads the footer. Raises UserError for a file that is not there, truncated, or not Parquet.

        piecewise: for row groups too large to be in memory at once: pyarrow would hold all bytes of the columns read.
        Nothing is mapped into memory, where a file that is cut short would end the process. Otherwise one read per
        column fetches a row group, and on remote file systems all columns are fetched together.
        """
        options: dict[str, Any] = {"pre_buffer": self.remote and not piecewise}
        with readable(self.path):
            stamp = None if self.remote else self.look()
            source = self.filesystem.open_input_file(self.path)
            if piecewise:
                options["buffer_size"] = REMOTE_READ_BYTES if self.remote else READ_BYTES
            footer = Footer.read(source)
            return Opened(open_checked(source, footer, **options), stamp or self._remote_stamp(source), footer.digest)

    def look(self) -> Stamp:
        """Returns how a local file looks now. Raises OSError where it is not there."""
        found = os.stat(self.path)
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)

    def _remote_stamp(self, source: pa.NativeFile) -> Stamp:
        """Returns how an object looked when it was opened: by its ETag, where the store has one."""
        about = {key.lower(): value for key, value in (source.metadata() or {}).items()}
        if tag := about.get(b"etag"):
            return Stamp(source.size(), tag=tag.decode(errors="replace"))
        return Stamp(source.size(), self.filesystem.get_file_info(self.path).mtime_ns or 0)


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Makes an error line of what Arrow says of a file that is not there, truncated, or not Parquet."""
    try:
        yield
    except UNREADABLE as error:
        if is_away(error):
            raise
        if isinstance(error, FileNotFoundError):
            raise UnreadableError(f"{path}: no longer there; put it back, or leave it out") from error
        raise UnreadableError(
            f"{path}: not a readable Parquet file ({short_message(error)}); it may be truncated or corrupt: "
            "write it again, or leave it out"
        ) from error


class Sightings:
    """Sightings are how one process saw files when it opened them first: a file must stay what it was."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp] = {}

    def __getstate__(self) -> dict[str, dict[str, Stamp]]:
        """Takes objects along, which look the same from everywhere; another machine has other inodes and clocks."""
        return {"_stamps": {path: stamp for path, stamp in self._stamps.items() if stamp.tag}}

    def add(self, file: File, stamp: Stamp) -> None:
        """Keeps how a file looked. Raises UserError where it looked otherwise before."""
        if difference := self._stamps.setdefault(file.path, stamp).difference(stamp):
            raise changed(file, difference)

    def check(self, file: File) -> None:
        """Raises UserError where a local file that was seen looks otherwise now. Costs one system call."""
        if file.remote or file.path not in self._stamps:
            return
        try:
            now = file.look()
        except OSError as error:
            raise changed(file, short_message(error)) from None
        if difference := self._stamps[file.path].difference(now):
            raise changed(file, difference)


def changed(file: File, difference: str) -> UnreadableError:
    """Returns the error about a file that is no longer what it was."""
    return UnreadableError(
        f"{file.path}: changed after the start ({difference}), and rows of old and new files must not be mixed; put "
        "the file back and go on with --resume, or start anew"
    )


def short_message(error: BaseException) -> str:
    """Returns the first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _clock(nanoseconds: int) -> str:
    """Returns a local time, to the microsecond."""
    return datetime.fromtimestamp(nanoseconds / 1e9).isoformat(" ")
