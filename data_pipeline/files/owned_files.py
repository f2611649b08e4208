"""Owned files are those that the program can prove it wrote; nothing else is ever removed or replaced.

The proof is a list of names, `.shardrec.json`, which every folder gets that a command fills and may replace later. What
the list does not name is the user's, and so is what a link leads to.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.processes import alive, here
from shardrec.data_pipeline.files.relative_names import RelativeName

MARKER = ".shardrec.json"
"""The file that says what the program wrote beside it."""

_LOOKED_AT = 1 << 20  # bytes of a file, for what it is


class Marker(BaseModel):
    """A marker lists the files of a folder, relative to it.

    While a process is still filling the folder there is no list yet, but `place` and `process`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[RelativeName, ...] | None = None
    place: str | None = None
    process: int | None = None

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """Returns a folder's marker; None where it has none, or none that can be read."""
        path = folder / MARKER
        try:
            return None if path.is_symlink() else cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    @property
    def abandoned(self) -> bool:
        """Tells whether who wrote it ran in this place, and is gone."""
        return self.place == here() and self.process is not None and not alive(self.process)


def mark(folder: Path, *, complete: bool) -> None:
    """Writes a folder's marker: a list of all files in it once it is `complete`, else who is filling it."""
    if complete:
        marker = Marker(files=tuple(sorted(_files(folder) - {MARKER})))
    else:
        marker = Marker(place=here(), process=os.getpid())
    with open(folder / MARKER, "w", opener=not_through_links) as file:
        file.write(marker.model_dump_json(exclude_none=True) + "\n")


def not_through_links(path: str, flags: int) -> int:
    """Opens a file for `open(..., opener=not_through_links)`; raises OSError where a link is in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def without_waiting(path: str, flags: int) -> int:
    """Opens a file for `open(..., opener=without_waiting)`: a pipe in its place is empty, and not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_own_file(path: Path, pattern: bytes) -> None:
    """Raises UserError where a file is to be replaced that is not all of `pattern`, as the program's own are."""
    if not path.is_symlink() and not path.exists():
        return
    try:
        with open(path, "rb", opener=not_through_links) as file:
            is_own = re.fullmatch(pattern, file.read(_LOOKED_AT), re.DOTALL) is not None
    except OSError:  # a link, a folder
        is_own = False
    if not is_own:
        raise UserError(f"{path}: not replaced, since nothing in it proves that shardrec wrote it; move it away")


def check_replaceable(folder: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raises UserError unless all that a folder holds is owned, and neither `inputs` nor the working directory is."""
    kept = f"{folder}: not replaced, since"
    if folder.is_symlink():
        raise UserError(f"{kept} it is a link to {os.readlink(folder)}; name the folder itself, or remove the link")
    for path, noun in [(Path.cwd(), "the working directory"), *((Path(path), "what is to be read") for path in inputs)]:
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{kept} it is or holds {noun} ({path}); name another folder")
    marker = Marker.read(folder)
    if marker is None or marker.files is None:
        raise UserError(
            f"{kept} nothing in it proves that shardrec wrote it (no list of files, {MARKER}); remove it yourself, or "
            "name another folder"
        )
    if foreign := _foreign(folder, marker.files):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{kept} shardrec did not write {foreign[0]!r}{more} in it; move that away, or name another folder"
        )


def remove_owned(folder: Path) -> None:
    """Removes what a folder's marker lists, all of one that was still being filled; what holds more than that stays."""
    marker = Marker.read(folder)
    if marker is None or folder.is_symlink():
        return
    if marker.files is None:
        remove_made(folder)
    else:
        remove_files(folder, [*marker.files, MARKER])
        remove_if_empty(folder)


def remove_made(folder: Path) -> None:
    """Removes a folder that was made for a command's own use, under a name that nothing else has."""
    shutil.rmtree(folder, ignore_errors=True)  # unlinks links, and does not follow them


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Removes files by their names in a folder, and the folders inside it that this leaves empty; never through links.

    Names of what is not there, and of folders and links, are passed over; all names are where `folder` is a link.
    """
    if folder.is_symlink():
        return
    within: set[PurePosixPath] = set()
    for name in names:
        parents = [parent for parent in PurePosixPath(name).parents if parent.parts]
        if any((folder / parent).is_symlink() for parent in parents) or (folder / name).is_symlink():
            continue
        if (folder / name).is_file():
            (folder / name).unlink(missing_ok=True)
        within.update(parents)
    for parent in sorted(within, key=lambda path: len(path.parts), reverse=True):
        remove_if_empty(folder / parent)


def remove_if_empty(folder: Path) -> None:
    """Removes a folder that is empty, and neither a link nor where this process works."""
    if not folder.is_symlink() and folder.is_dir() and not Path.cwd().is_relative_to(folder.resolve()):
        try:
            folder.rmdir()
        except OSError:
            return  # something is in it: not ours


def _files(folder: Path) -> set[str]:
    """Returns the names of all that is in a folder and its folders but for these, links to folders among them."""
    names = set()
    for inside, folders, files in os.walk(folder):
        links = [name for name in folders if Path(inside, name).is_symlink()]
        names |= {Path(inside, name).relative_to(folder).as_posix() for name in (*files, *links)}
    return names


def _foreign(folder: Path, listed: Sequence[str]) -> list[str]:
    """Returns what a folder holds beside the listed files: other files, links, and folders without a listed file."""
    expected = {MARKER, *listed}
    around = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    foreign = {name for name in _files(folder) if name not in expected or (folder / name).is_symlink()}
    for inside, folders, _ in os.walk(folder):
        paths = {Path(inside, name).relative_to(folder).as_posix() for name in folders}
        foreign |= {path + "/" for path in paths - around if not (folder / path).is_symlink()}
    return sorted(foreign)
