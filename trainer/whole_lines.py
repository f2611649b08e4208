"""Reports for people in which no number is cut off: lines are as long as they need to be, which a terminal breaks."""

from rich.console import Console
from rich.table import Table

WIDEST = 10_000
"""Columns that a table may take."""


def print_whole(*parts: Table | str) -> None:
    """Prints tables and lines of text below each other, also where a pipe or a terminal is narrower than they are."""
    console = Console(highlight=False, markup=False)
    for part in parts:
        if isinstance(part, Table):
            needed = console.measure(part, options=console.options.update(max_width=WIDEST)).maximum
            console.width = max(console.width, needed)
        console.print(part, soft_wrap=isinstance(part, str))
