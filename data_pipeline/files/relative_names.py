"""Relative names are those of files inside a folder, read from schemas and manifests that anybody may have written.

Such a name never leads out of its folder: not by itself, which is checked where it is parsed, and not by a link that
lies in the folder, which is checked where the file is opened.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from shardrec.data_pipeline.errors import UserError


def relative_name(name: str) -> str:
    """Returns a name that stays inside whatever folder it is taken of.

    Raises ValueError for an absolute one, one with `..`, and one that is empty or no file system takes.
    """
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not name.startswith("/") and ".." not in parts and "://" not in name and "\\" not in name
    if not inside or any(ord(character) < 32 for character in name):
        raise ValueError("a file's name must stay inside its folder: relative, without `..`")
    return name


RelativeName = Annotated[str, AfterValidator(relative_name)]
"""A declared name of a file inside the folder of what declares it."""


def within(folder: str | Path, name: str) -> Path:
    """Returns the path of what is called `name` in a local folder. Raises UserError where a link leads out of it."""
    path = Path(folder, relative_name(name))
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise UserError(f"{path}: a link leads out of {folder} to {path.resolve()}; put the file itself there")
    return path
