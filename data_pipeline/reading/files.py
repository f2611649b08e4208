"""Data files are found by path, folder, glob or URI, and opened in the way that suits what is read of them.

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
    """A file is one Parquet file: its path within its file system, and its size in bytes."""

    filesystem: pafs.FileSystem
    path: str
    size: int

    @property
    def remote(self) -> bool:
        """Tells whether the file lies behind a network."""
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
                f"{self.path}: not a readable Parquet file ({short_message(error)}); it may be truncated or corrupt: "
                "write it again, or leave it out"
            ) from error


def short_message(error: BaseException) -> str:
    """Returns the first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def find_files(paths: str | Path | Sequence[str | Path]) -> tuple[File, ...]:
    """Returns the files that paths, folders, globs and URIs stand for; a folder stands for its *.parquet, at any depth.

    What one path stands for is sorted by name; several paths keep their order; a file counts once. Raises UserError
    where a path stands for nothing.
    """
    path_list = [paths] if isinstance(paths, str | Path) else list(paths)
    if not path_list:
        raise UserError("no data files are named; data paths are Parquet files, folders or globs")
    return _distinct(file for path in path_list for file in _find(str(path)))


def _find(named: str) -> list[File]:
    """Returns the files that a path, folder, glob or URI stands for, sorted. Raises UserError where there are none."""
    try:
        if "://" in named:
            filesystem, path = pafs.FileSystem.from_uri(named)
        else:
            filesystem, path = pafs.LocalFileSystem(), Path(named).expanduser().absolute().as_posix()
        infos = [i for i in _matches(filesystem, path) if i.is_file]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{named}: cannot be read as a data path ({short_message(error)})") from error
    if not infos:
        raise UserError(f"{named}: no such Parquet file, and no *.parquet files in such a folder; check the data paths")
    return [File(filesystem, i.path, i.size) for i in sorted(infos, key=lambda i: i.path)]


def _distinct(files: Iterable[File]) -> tuple[File, ...]:
    """Returns each file once, at its first place."""
    by_path: dict[str, list[File]] = {}
    distinct = []
    for file in files:
        same_path = by_path.setdefault(file.path, [])
        if not any(file.filesystem == earlier.filesystem for earlier in same_path):
            same_path.append(file)
            distinct.append(file)
    return tuple(distinct)


def _matches(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """Returns what a path, or else a glob, stands for."""
    return _entry(filesystem, path) or _expand(filesystem, "", path.split("/"))


def _entry(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """Returns the file of this name, or the *.parquet files of the folder of this name."""
    info = filesystem.get_file_info(path)
    return _parquet_files(filesystem, path) if info.type == pafs.FileType.Directory else [info] * info.is_file


def _expand(filesystem: pafs.FileSystem, folder: str, parts: Sequence[str]) -> list[pafs.FileInfo]:
    """Returns what `folder` / `parts` matches; `**` stands for any number of folders."""
    plain = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    folder, parts = "/".join([*([folder] if folder else []), *parts[:plain]]), parts[plain:]
    if not parts:
        return _entry(filesystem, folder)
    matches = []
    inside = filesystem.get_file_info(pafs.FileSelector(folder or "/", allow_not_found=True))
    inside = [info for info in inside if not info.base_name.startswith(UNFINISHED)]
    if parts[0] == "**":
        rest = parts[1:] or ["*.parquet"]
        matches += _expand(filesystem, folder, rest)
        for info in inside:
            if info.type == pafs.FileType.Directory:
                matches += _expand(filesystem, info.path, ["**", *rest])
        return matches
    for info in inside:
        if fnmatchcase(info.base_name, parts[0]):
            matches += _expand(filesystem, info.path, parts[1:])
    return matches


def _parquet_files(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """Returns a folder's *.parquet files, at any depth."""
    infos = []
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        below = info.path[len(folder) :].strip("/").split("/")
        if info.path.endswith(".parquet") and not any(part.startswith(UNFINISHED) for part in below):
            infos.append(info)
    return infos
