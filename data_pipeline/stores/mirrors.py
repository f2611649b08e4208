"""A mirror is the folder in which a machine has its part of what is kept at a URI: small files, logs, events.

It lies in the cache of the machine's user, under the names of the URI: either is known by the other, without a note.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import StorePath, is_store_uri

VARIABLE = "SHARDREC_STORES"
"""The environment variable that names another folder for all mirrors."""


def mirrors() -> Path:
    """Returns the folder of all mirrors."""
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "shardrec", "stores")


def local(path: str | Path) -> Path:
    """Returns a local path as it is, and of a URI its mirror. Raises UserError for a URI that has none."""
    text = str(path)
    if not is_store_uri(text):
        return Path(path)
    at = StorePath.parse(text)
    names = at.key.split("/") if at.key else []
    if any(name in ("", ".", "..") or len(name.encode()) > 255 for name in names):
        raise UserError(f"{text}: names in it have to be those of folders, none of them empty, `.` or `..`")
    return Path(mirrors(), quote(at.root + (f"?{at.query}" if at.query else ""), safe=""), *names)


def mirrored(path: Path) -> StorePath | None:
    """Returns what a folder mirrors; None for a folder that is no mirror."""
    root = mirrors()
    if not path.is_relative_to(root) or path == root:
        return None
    first, *names = path.relative_to(root).parts
    base, _, query = unquote(first).partition("?")
    return StorePath(base, "/".join(names), query)


def address(path: Path) -> str:
    """Returns the URI that a mirror is of, and any other path as it is."""
    at = mirrored(path)
    return str(path) if at is None else at.uri
