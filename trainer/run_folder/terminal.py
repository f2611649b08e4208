"""Reports for people in which no number is cut off: lines are as long as they need to be, which a terminal breaks."""

from collections.abc import Container, Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def plain_table(
    columns: Iterable[str],
    lines: Iterable[Iterable[str | Text]],
    *,
    left: Container[str] = (),
    title: str | None = None,
) -> Table:
    """Returns a table without rules, to be printed whole; but for the columns in `left` it aligns cells as numbers."""
    table = Table(box=None, header_style="bold", title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table
