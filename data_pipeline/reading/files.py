"""Data files: finding them by path, folder, glob or URI, and opening them in the way that suits what is read.

Local paths and URIs of `pyarrow.fs` (s3://, gs://, hdfs://, file://) go through the same code.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError

UNFINISHED = ("_", ".")
"""Folders and globs leave out names that start so: they are other programs' unfinished work, or not data."""

REMOTE_READ_BYTES = 1 << 20
"""Bytes read at once, for each column, where a large row group is read piece by piece over a network."""


class File(NamedTuple):
    """One Parquet file: its path within its file system, and its size in bytes."""

    filesystem: pafs.FileSystem
    path: str
    size: int

    @property
    def remote(self) -> bool:
        return not isinstance(self.filesystem, pafs.LocalFileSystem)

    def open(self, *, piecewise: bool) -> pq.ParquetFile:
        """Reads the footer. Raises UserError for a file that is not there, truncated, or not Parquet.

        piecewise: for row groups too large to be in memory at once. pyarrow would hold all bytes of the columns read,
        and its buffered streams grow to the same, so that local files are mapped into memory. Otherwise one read per
        column fetches a row group, and on remote file systems all columns are fetched together.
        """
        try:
            if piecewise and not self.remote:
                return pq.ParquetFile(pa.memory_map(self.path), pre_buffer=False)
            file = self.filesystem.open_input_file(self.path)
            if piecewise:
                return pq.ParquetFile(file, pre_buffer=False, buffer_size=REMOTE_READ_BYTES)
            return pq.ParquetFile(file, pre_buffer=self.remote)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self.path}: not a readable Parquet file ({first_line(error)}); it may be truncated or corrupt: "
                "write it again, or leave it out"
            ) from error


def first_line(error: BaseException) -> str:
    """The first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def find_files(paths: str | Path | Sequence[str | Path]) -> tuple[File, ...]:
    """The files that paths, folders, globs and URIs stand for. A folder stands for its *.parquet, at any depth.

    What one path stands for is sorted by name; several paths keep their order; a file counts once. Raises UserError
    where a path stands for nothing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise UserError("no data files are named; data paths are Parquet files, folders or globs")
    return _distinct(file for path in given for file in _find(str(path)))


def _find(given: str) -> list[File]:
    """The files that a path, folder, glob or URI stands for, sorted. Raises UserError where there are none."""
    try:
        if "://" in given:
            filesystem, path = pafs.FileSystem.from_uri(given)
        else:
            filesystem, path = pafs.LocalFileSystem(), Path(given).expanduser().absolute().as_posix()
        found = [i for i in _matches(filesystem, path) if i.is_file]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{given}: cannot be read as a data path ({first_line(error)})") from error
    if not found:
        raise UserError(f"{given}: no such Parquet file, and no *.parquet files in such a folder; check the data paths")
    return [File(filesystem, i.path, i.size) for i in sorted(found, key=lambda i: i.path)]


def _distinct(files: Iterable[File]) -> tuple[File, ...]:
    """Each file once, at its first place."""
    found: dict[str, list[File]] = {}
    order = []
    for file in files:
        same_path = found.setdefault(file.path, [])
        if not any(file.filesystem == other.filesystem for other in same_path):
            same_path.append(file)
            order.append(file)
    return tuple(order)


def _matches(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """What a path, or else a glob, stands for."""
    return _entry(filesystem, path) or _expand(filesystem, "", path.split("/"))


def _entry(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """The file of this name, or the *.parquet files of the folder of this name."""
    info = filesystem.get_file_info(path)
    return _parquet_files(filesystem, path) if info.type == pafs.FileType.Directory else [info] * info.is_file


def _expand(filesystem: pafs.FileSystem, folder: str, parts: Sequence[str]) -> list[pafs.FileInfo]:
    """What `folder` / `parts` matches; `**` stands for any number of folders."""
    plain = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    folder, parts = "/".join([*([folder] if folder else []), *parts[:plain]]), parts[plain:]
    if not parts:
        return _entry(filesystem, folder)
    found = []
    inside = filesystem.get_file_info(pafs.FileSelector(folder or "/", allow_not_found=True))
    inside = [info for info in inside if not info.base_name.startswith(UNFINISHED)]
    if parts[0] == "**":
        rest = parts[1:] or ["*.parquet"]
        found += _expand(filesystem, folder, rest)
        for info in inside:
            if info.type == pafs.FileType.Directory:
                found += _expand(filesystem, info.path, ["**", *rest])
        return found
    for info in inside:
        if fnmatchcase(info.base_name, parts[0]):
            found += _expand(filesystem, info.path, parts[1:])
    return found


def _parquet_files(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """A folder's *.parquet files, at any depth."""
    found = []
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        below = info.path[len(folder) :].strip("/").split("/")
        if info.path.endswith(".parquet") and not any(part.startswith(UNFINISHED) for part in below):
            found.append(info)
    return found
