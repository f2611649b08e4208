"""Data files are found by path, folder, glob or URI.

Local paths and URIs of `pyarrow.fs` (s3://, gs://, hdfs://, file://) go through the same code.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.natural_order import natural_key
from shardrec.data_pipeline.reading.files import File, short_message
from shardrec.data_pipeline.reading.lake_tables import refuse_tables_around, refuse_tables_inside
from shardrec.data_pipeline.stores.filesystems import opened
from shardrec.data_pipeline.stores.retries import is_away, tried

UNFINISHED = ("_", ".")
"""Folders and globs leave out names that start so: they are other programs' unfinished work, or not data."""

CHECKSUM_FILES = ".crc"
"""Globs leave out names that end so: Hadoop writes them beside its files."""


def find_files(paths: str | Path | Sequence[str | Path], *, by_number: bool = True) -> tuple[File, ...]:
    """Returns the files that paths, folders, globs and URIs stand for; a folder stands for its *.parquet, at any depth.

    What one path stands for is sorted by name; several paths keep their order; a file counts once. Empty files, which
    Spark leaves for parts without rows, count where they are named alone.

    by_number: numbers in names count as numbers (day_9, day_10); else names are sorted as plain strings

    Raises UserError where a path stands for nothing, and for tables of Delta Lake, Iceberg and Hudi.
    """
    path_list = [paths] if isinstance(paths, str | Path) else list(paths)
    if not path_list:
        raise UserError("no data files are named; data paths are Parquet files, folders or globs")
    key: Callable[[str], Any] = natural_key if by_number else str
    return _distinct(file for path in path_list for file in _find(str(path), key))


def _find(named: str, key: Callable[[str], Any]) -> list[File]:
    """Returns the files that a path, folder, glob or URI stands for, sorted. Raises UserError where there are none."""
    try:
        if "://" in named:
            filesystem, path = opened(named)
        else:
            filesystem, path = pafs.LocalFileSystem(), _expanded(named).absolute().as_posix()
        found = tried(lambda: _matches(filesystem, path), f"{named}: looked for", again=is_away)
        infos = [info for info in found if info.is_file]
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{named}: cannot be read as a data path ({short_message(error)})") from error
    if not infos:
        raise UserError(f"{named}: no such Parquet file, and no *.parquet files in such a folder; check the data paths")
    full = [i for i in infos if i.size] if len(infos) > 1 else infos
    if not full:
        raise UserError(f"{named}: all {len(infos)} Parquet files are empty (0 bytes); write them again")
    return [File(filesystem, i.path, i.size) for i in sorted(full, key=lambda i: key(i.path))]


def _expanded(named: str) -> Path:
    """Returns a path with its `~`, unless a file is called so or there is no such user."""
    path = Path(named)
    try:
        return path if path.exists() else path.expanduser()
    except RuntimeError:
        return path


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
    """Returns what a path, or else a glob, stands for. Raises UserError for tables of other systems."""
    found = _entry(filesystem, path) or _expand(filesystem, "", path.split("/"))
    is_folder = any(info.path.startswith(f"{path.rstrip('/')}/") for info in found)
    folders = [path] if is_folder else [info.path.rpartition("/")[0] for info in found]
    refuse_tables_around(filesystem, folders)
    return found


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
    if parts[0] == "**":
        folders = [folder, *_folders_below(filesystem, folder)]
        return [info for below in folders for info in _expand(filesystem, below, parts[1:] or ["*.parquet"])]
    called_so = f"{folder}/{parts[0]}"
    if folder and filesystem.get_file_info(called_so).type != pafs.FileType.NotFound:
        return _expand_into(filesystem, called_so, parts[1:])
    matches = []
    for info in filesystem.get_file_info(pafs.FileSelector(folder or "/", allow_not_found=True)):
        if fnmatchcase(info.base_name, parts[0]) and not _is_left_out(info.base_name):
            matches += _expand_into(filesystem, info.path, parts[1:])
    return matches


def _expand_into(filesystem: pafs.FileSystem, path: str, parts: Sequence[str]) -> list[pafs.FileInfo]:
    """Returns what `path` / `parts` matches, where `path` is there, whatever characters it has."""
    if not parts:
        return _entry(filesystem, path)
    if filesystem.get_file_info(path).type != pafs.FileType.Directory:
        return []
    return _expand(filesystem, path, parts)


def _parquet_files(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """Returns a folder's *.parquet files, at any depth. Raises UserError for a link to nothing."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        paths = list(_walk(folder))
    else:
        paths = [info.path for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))]
    refuse_tables_inside(folder, paths)
    wanted = [path for path in paths if path.endswith(".parquet") and not _is_below_left_out(folder, path)]
    infos = [info for info in filesystem.get_file_info(wanted) if info.type != pafs.FileType.Directory]
    for info in infos:
        if info.type == pafs.FileType.NotFound:
            raise UserError(f"{info.path}: is a link to a file that is not there; put the file there, or leave it out")
    return infos


def _folders_below(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    """Returns the folders in a folder, at any depth."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        inside = [path for path in (_walk(folder) if os.path.isdir(folder) else ()) if os.path.isdir(path)]
    else:
        infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        inside = [info.path for info in infos if info.type == pafs.FileType.Directory]
    return [path for path in inside if not _is_below_left_out(folder, path)]


def _is_left_out(name: str) -> bool:
    return name.startswith(UNFINISHED) or name.endswith(CHECKSUM_FILES)


def _is_below_left_out(folder: str, path: str) -> bool:
    return any(map(_is_left_out, path[len(folder.rstrip("/")) :].split("/")))


def _walk(folder: str, way: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yields all that is in a local folder, at any depth; what is left out is named but not entered.

    Links to folders are followed, but for those that lead back to a folder that the way there comes from.
    """
    way |= {os.path.realpath(folder)}
    with os.scandir(folder or "/") as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        path = f"{folder.rstrip('/')}/{entry.name}"
        yield path
        if entry.is_dir() and not _is_left_out(entry.name) and os.path.realpath(path) not in way:
            yield from _walk(path, way)
