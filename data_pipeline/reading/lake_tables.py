"""Folders of Delta Lake, Iceberg and Hudi are not read: their logs say which of their files and rows count."""

from collections.abc import Iterable

import pyarrow.fs as pafs

from shardrec.data_pipeline.errors import UserError

_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
"""A table's folder has its log in a folder of this name."""

_METADATA, _METADATA_FILE = "metadata", ".metadata.json"
"""Iceberg's log: files that end so, in a folder of this name beside one called `data`."""


def refuse_tables_inside(folder: str, paths: Iterable[str]) -> None:
    """Raises UserError where one of `paths`, all that is below `folder`, is the log of a table."""
    start = len(folder.rstrip("/"))
    for path in paths:
        parts = path[start:].split("/")
        for name, kind in _LOGS.items():
            if name in parts:
                raise _refused(folder + "/".join(parts[: parts.index(name)]), kind)
        if path.endswith(_METADATA_FILE) and len(parts) > 1 and parts[-2] == _METADATA:
            raise _refused(folder + "/".join(parts[:-2]), "Iceberg")


def refuse_tables_around(filesystem: pafs.FileSystem, folders: Iterable[str]) -> None:
    """Raises UserError where a folder, maybe a partition (`day=3`) or the `data` of a table, belongs to a table."""
    roots = dict.fromkeys(_without_partitions(folder) for folder in folders)
    for info in filesystem.get_file_info([f"{root}/{name}" for root in roots for name in _LOGS]):
        if info.type == pafs.FileType.Directory:
            raise _refused(info.path.rpartition("/")[0], _LOGS[info.base_name])
    for parent in (root.rpartition("/")[0] for root in roots if root.rpartition("/")[2] == "data"):
        inside = filesystem.get_file_info(pafs.FileSelector(f"{parent}/{_METADATA}", allow_not_found=True))
        if any(info.path.endswith(_METADATA_FILE) for info in inside):
            raise _refused(parent, "Iceberg")


def _without_partitions(folder: str) -> str:
    """Returns a folder of partitions (`key=value`), whichever of them was named."""
    while "=" in folder.rpartition("/")[2]:
        folder = folder.rpartition("/")[0]
    return folder


def _refused(folder: str, kind: str) -> UserError:
    return UserError(
        f"{folder}: is a table of {kind}, whose log says which files and rows count, and that is not read: deleted "
        "rows would come back; write the table's present rows to plain Parquet files, and name those"
    )
