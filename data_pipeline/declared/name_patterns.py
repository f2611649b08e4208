"""Name patterns choose tables, features and parameters in a run file."""

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Tells whether a pattern means a name: it is the name, brackets and all, or its `*`, `?` and `[...]` match it."""
    return name == pattern or fnmatchcase(name, pattern)
