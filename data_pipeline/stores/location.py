"""A location is a path on a disk or in a store; the latter has those of pathlib's methods that checkpoints need.

A store has objects and no folders: a folder is there while an object is in it. An object is there whole, or not at all.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from shardrec.data_pipeline.stores.filesystems import opened
from shardrec.data_pipeline.stores.retries import tried

SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")

_MOST_COPIED = 5 << 30  # bytes that S3 copies in one request
_PIECE_BYTES = 32 << 20


class Status(NamedTuple):
    """A status says of an object what `os.stat_result` says of a file."""

    st_size: int
    st_mtime_ns: int

    @property
    def st_mtime(self) -> float:
        """Returns when the object was written, by the store's clock."""
        return self.st_mtime_ns / 1e9


def is_store_uri(text: str) -> bool:
    """Says whether a text is the URI of something in a store."""
    return re.match(rf"({'|'.join(SCHEMES)})://", text) is not None


@dataclass(frozen=True, order=True)
class StorePath:
    """A store path names an object, or a folder of objects.

    root: scheme and bucket, or host. key: names with `/` between them. query: options of the store, as URIs have them.
    """

    root: str
    key: str
    query: str = ""

    @classmethod
    def parse(cls, uri: str) -> "StorePath":
        """Takes a URI apart."""
        base, _, query = uri.partition("?")
        scheme, _, rest = base.partition("://")
        authority, _, key = rest.partition("/")
        return cls(f"{scheme}://{authority}", re.sub("/+", "/", key).strip("/"), query)

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"

    @property
    def uri(self) -> str:
        """Returns what `parse` takes apart."""
        return f"{self}?{self.query}" if self.query else str(self)

    # ------------------------------------------------------------ names

    @property
    def name(self) -> str:
        """Returns the last name."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "StorePath":
        """Returns the folder that this is in."""
        return StorePath(self.root, self.key.rpartition("/")[0], self.query)

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(self.root, f"{self.key}/{name}".strip("/"), self.query)

    def with_name(self, name: str) -> "StorePath":
        """Returns what is called otherwise in the same folder."""
        return self.parent / name

    def resolve(self) -> "StorePath":
        """Returns the path: there are no links."""
        return self

    # ------------------------------------------------------------ what is there

    @property
    def opened(self) -> tuple[pafs.FileSystem, str]:
        """Returns the file system, and the path in it."""
        filesystem, base = tried(
            lambda: opened(self.root + (f"?{self.query}" if self.query else "")), f"{self}: reached"
        )
        return filesystem, f"{base.rstrip('/')}/{self.key}"

    def _info(self) -> pafs.FileInfo:
        filesystem, path = self.opened
        return tried(lambda: filesystem.get_file_info(path), f"{self}: looked for")

    def exists(self) -> bool:
        """Says whether there is such an object, or a folder with any."""
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_file(self) -> bool:
        """Says whether there is such an object."""
        return bool(self._info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        """Says whether there is a folder with objects."""
        return bool(self._info().type == pafs.FileType.Directory)

    def is_symlink(self) -> bool:
        """Says no."""
        return False

    def stat(self) -> Status:
        """Returns size and time of an object. Raises FileNotFoundError where there is none."""
        info = self._info()
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(2, "no such object", str(self))
        return Status(info.size, info.mtime_ns or 0)

    def listed(self, *, deep: bool = False) -> dict["StorePath", Status | None]:
        """Returns what is in a folder, or at any depth below it, with the status of objects; None of folders."""
        filesystem, path = self.opened
        selector = pafs.FileSelector(path, recursive=deep, allow_not_found=True)
        infos = tried(lambda: filesystem.get_file_info(selector), f"{self}: listed")
        found: dict[StorePath, Status | None] = {}
        for info in infos:
            status = Status(info.size, info.mtime_ns or 0) if info.type == pafs.FileType.File else None
            found[self / info.path[len(path) :].strip("/")] = status
        return found

    def iterdir(self) -> Iterator["StorePath"]:
        """Yields what is in a folder; nothing where there is none."""
        yield from self.listed()

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """Yields what is in a folder, itself, by a pattern of names."""
        yield from (path for path in self.listed() if fnmatchcase(path.name, pattern))

    # ------------------------------------------------------------ small objects, and whole folders

    def read_bytes(self) -> bytes:
        """Returns an object's bytes. Raises FileNotFoundError where there is none."""
        filesystem, path = self.opened

        def read() -> bytes:
            with filesystem.open_input_file(path) as file:
                data: bytes = file.read()
                return data

        return tried(read, f"{self}: read")

    def read_text(self, errors: str = "strict") -> str:
        """Returns an object's text."""
        return self.read_bytes().decode(errors=errors)

    def write_bytes(self, data: bytes) -> int:
        """Puts an object there, in the place of one that is."""
        filesystem, path = self.opened

        def write() -> None:
            with filesystem.open_output_stream(path) as file:
                file.write(data)

        tried(write, f"{self}: written")
        return len(data)

    def write_text(self, text: str) -> int:
        """Puts an object there."""
        return self.write_bytes(text.encode())

    def mkdir(self, **_: Any) -> None:
        """Does nothing: a folder is there as soon as an object is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes an object. Raises FileNotFoundError where there is none, unless it may be missing."""
        filesystem, path = self.opened
        try:
            tried(lambda: filesystem.delete_file(path), f"{self}: removed")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "StorePath") -> "StorePath":
        """Copies a folder, then removes it: stores rename nothing.

        Objects of the folder itself, as a manifest is, come last to the target, and go first from here.
        """
        files = (path for path, status in self.listed(deep=True).items() if status is not None)
        for file in sorted(files, key=lambda path: path.key.count("/"), reverse=True):
            file.copy_to(target / file.key[len(self.key) + 1 :])
        self.remove()
        return target

    def remove(self) -> None:
        """Removes a folder: first its own objects, then those deeper in it."""
        for path, status in self.listed().items():
            if status is not None:
                path.unlink(missing_ok=True)
        filesystem, inside = self.opened
        with suppress(FileNotFoundError):
            tried(lambda: filesystem.delete_dir(inside), f"{self}: removed")

    def copy_to(self, target: "StorePath") -> None:
        """Copies an object inside the store."""
        filesystem, path = self.opened
        _, other = target.opened
        if self.stat().st_size < _MOST_COPIED:
            tried(lambda: filesystem.copy_file(path, other), f"{self}: copied")
            return

        def stream() -> None:
            with filesystem.open_input_stream(path) as source, filesystem.open_output_stream(other) as file:
                while piece := source.read(_PIECE_BYTES):
                    file.write(piece)
                    file.flush()

        tried(stream, f"{self}: copied")


Location = Path | StorePath
"""A path on a disk, or in a store."""


def location(text: str | Path) -> Location:
    """Returns a local path, or what a URI names."""
    return StorePath.parse(str(text)) if is_store_uri(str(text)) else Path(text)
