"""Files are written from front to back, and read anywhere, on disks and in stores alike.

In a store a file is uploaded in parts while it is written, and is there once it is closed; what is read is asked for by
its range. Neither needs more memory than a few parts.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.files.owned_files import remove_made
from shardrec.data_pipeline.files.whole_files import sync
from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.data_pipeline.stores.retries import tried

T = TypeVar("T")

_PIECE_BYTES = 16 << 20
_PART_BYTES, _AT_ONCE = 8 << 20, 4
_BEHIND_BYTES = 256 << 20  # of a file that is being written may wait for the disk, or for the store


class Output(Protocol):
    """An output takes a new file's bytes, in their order."""

    def write(self, data: memoryview) -> None:
        """Appends bytes."""

    def written_behind(self) -> None:
        """Has the medium begin on what was written, so that no large part of it waits in memory."""

    def tell(self) -> int:
        """Returns how many bytes were written."""


class _LocalOutput:
    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._size = descriptor, 0

    def write(self, data: memoryview) -> None:
        self._size += len(data)
        write_all(self._descriptor, data)

    def written_behind(self) -> None:
        """Has the disk begin on it, rather than at the final sync, and drops what it has taken from memory.

        Otherwise a large checkpoint first fills the page cache, and pushes out what the run reads.
        """
        if hasattr(os, "posix_fadvise"):
            start = max(0, self._size - _BEHIND_BYTES)
            os.posix_fadvise(self._descriptor, start, self._size - start, os.POSIX_FADV_DONTNEED)

    def tell(self) -> int:
        return self._size


class _StoreOutput:
    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self._size, self._waiting = file, 0, 0

    def write(self, data: memoryview) -> None:
        self._file.write(data)
        self._size += len(data)
        self._waiting += len(data)

    def written_behind(self) -> None:
        if self._waiting >= _BEHIND_BYTES // 2:  # parts are sent side by side, and copied until they are
            self._file.flush()
            self._waiting = 0

    def tell(self) -> int:
        return self._size


def write_all(descriptor: int, data: memoryview, place: int | None = None) -> None:
    """Writes bytes to a file, at a place of it or where it stands; a system may take them in several parts."""
    while data:
        count = os.write(descriptor, data) if place is None else os.pwrite(descriptor, data, place)
        data, place = data[count:], None if place is None else place + count


def write_new(path: Location, write: Callable[[Output], T]) -> T:
    """Writes a new file, which is on disk, or in the store, when this returns; returns what `write` does.

    write: is called again, from the start, where a store failed. Raises FileExistsError where a local file is there,
    and StoreError as `tried`.
    """
    if isinstance(path, StorePath):
        return _write_object(path, write)
    with about(path), open(path, "xb", buffering=0) as file:
        result = write(_LocalOutput(file.fileno()))
        os.fsync(file.fileno())
    return result


def _write_object(path: StorePath, write: Callable[[Output], T]) -> T:
    filesystem, inside = path.opened

    def whole() -> T:
        with filesystem.open_output_stream(inside) as file:
            return write(_StoreOutput(file))

    return tried(whole, f"{path}: written")


class Input:
    """An input is a file that ranges are read of."""

    def __init__(self, path: Location, file: Any, size: int) -> None:
        self._path, self._file, self.size = path, file, size

    def read_into(self, buffer: memoryview, start: int) -> int:
        """Fills a buffer with a file's bytes from `start` on; returns how many there were.

        Raises StoreError as `tried`.
        """
        if isinstance(self._path, StorePath):
            return self._fetched(self._path, buffer, start)
        filled = 0
        while filled < len(buffer):
            count = os.preadv(self._file, [buffer[filled:]], start + filled)
            if count == 0:
                break
            filled += count
        return filled

    def _fetched(self, path: StorePath, buffer: memoryview, start: int) -> int:
        """Fetches parts side by side: one connection to a store is slower than a disk."""

        def fetch(at: int) -> int:
            size = min(_PART_BYTES, len(buffer) - at)
            what = f"{path}: bytes {start + at} to {start + at + size} read"
            part = tried(lambda: self._file.read_at(size, start + at), what)
            buffer[at : at + len(part)] = part
            return len(part)

        places = range(0, len(buffer), _PART_BYTES)
        if len(places) < 2:
            return sum(map(fetch, places))
        with ThreadPoolExecutor(_AT_ONCE) as beside:
            return sum(beside.map(fetch, places))


@contextmanager
def opened_input(path: Location) -> Iterator[Input]:
    """Opens a file to read ranges of it. Raises FileNotFoundError where there is none."""
    if isinstance(path, StorePath):
        filesystem, inside = path.opened
        file = tried(lambda: filesystem.open_input_file(inside), f"{path}: opened")
        with file:
            yield Input(path, file, file.size())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield Input(path, descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def fetch_file(source: StorePath, target: Path) -> None:
    """Copies an object to a local file, piece by piece. Raises StoreError as `tried`, FileNotFoundError for none."""
    filesystem, inside = source.opened

    def fetch() -> None:
        with filesystem.open_input_file(inside) as file, target.open("wb") as copy:
            while piece := file.read(_PIECE_BYTES):
                copy.write(piece)

    tried(fetch, f"{source}: fetched")


def send_file(source: Path, target: StorePath) -> None:
    """Copies a local file, which may grow meanwhile, to an object. Raises StoreError as `tried`."""
    filesystem, inside = target.opened

    def send() -> None:
        with source.open("rb") as file, filesystem.open_output_stream(inside) as copy:
            left = os.fstat(file.fileno()).st_size
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                copy.write(piece)
                copy.flush()
                left -= len(piece)

    tried(send, f"{target}: written")


def settle(folder: Location) -> None:
    """Puts a folder's list of files on disk; a store has had it since it has the files."""
    if isinstance(folder, Path):
        sync(folder)


def remove_tree(folder: Location) -> None:
    """Removes a folder that was made for a command's own use."""
    if isinstance(folder, Path):
        remove_made(folder)
    else:
        folder.remove()
