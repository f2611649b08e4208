"""A preparation tells how far it is, one line at a time."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""What is called with each line."""


def silent(line: str) -> None:
    """Tells nobody."""
