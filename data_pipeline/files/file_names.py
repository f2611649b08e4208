"""Any text names a table, and file systems take few: a stem is what a name becomes in the names of files."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote

LONGEST = 160
"""Characters of a stem, at most, so that 255 bytes leave room for what files add to it."""

_HASH_MARK = "+"  # escaped in a name's own characters, so that no name's stem is another's with its hash


def file_stems(names: Iterable[str], escape: str = "%") -> dict[str, str]:
    """Returns for each name the stem of its files: ASCII letters, digits, `_.-~`, and `%XX` for other bytes of UTF-8.

    escape: what stands before XX; `=` where stems are parts of URIs, in which `%XX` means the byte itself. A stem that
    would be long, or differs from another in upper and lower case alone (which some file systems do not see), ends in a
    hash of the name. Stems differ, whatever the names are.
    """
    names = list(dict.fromkeys(names))
    stems = {name: quote(name, safe="").replace("%", escape) for name in names}
    alike = Counter(stem.lower() for stem in stems.values())
    return {n: s if len(s) <= LONGEST and alike[s.lower()] == 1 else _hashed(n, s) for n, s in stems.items()}


def _hashed(name: str, stem: str) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{stem[: LONGEST - len(digest) - 1]}{_HASH_MARK}{digest}"
