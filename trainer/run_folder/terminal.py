"""Reports for people in which no number is cut off: lines are as long as they need to be, which a terminal breaks."""

from rich.console import Console
from rich.table import Table

WIDEST = 10_000
"""Columns that a table may take."""


def print_table(console: Console, table: Table) -> None:
    """Prints a table, whose lines a narrow terminal breaks, rather than cut numbers; the console stays as wide."""
    needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def print_whole(*parts: Table | str) -> None:
    """Prints tables and lines of text below each other, also where a pipe or a terminal is narrower than they are."""
    console = Console(highlight=False, markup=False)
    for part in parts:
        if isinstance(part, Table):
            print_table(console, part)
        else:
            console.print(part, soft_wrap=True)
