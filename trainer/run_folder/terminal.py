"""Commands write results to standard output and messages to standard error, and cut no number off."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

WIDEST = 10_000
"""Columns that a table may take."""


def results() -> Console:
    """Returns a console on standard output, for what a command was asked for."""
    return Console(highlight=False, emoji=False)


def messages(file: TextIO | None = None) -> Console:
    """Returns a console on standard error, or on `file`, for what is said meanwhile."""
    return Console(file=file, stderr=True, highlight=False, force_jupyter=False)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Shows one line on standard error while it lasts; what is yielded sets its text."""
    with messages().status("") as status:
        yield lambda text: status.update(escape(text))


def error_line(error: Exception) -> str:
    """Returns the one line that a command ends with because of `error`; one of the system's begins with the file."""
    line = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None and error.filename2 is None:
        line = f"{error.filename}: {error.strerror}"
    return f"shardrec: error: {' '.join(line.split())}"


def print_table(console: Console, table: Table) -> None:
    """Prints a table, whose lines a narrow terminal breaks, rather than cut numbers; the console stays as wide."""
    needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def print_whole(*parts: Table | str) -> None:
    """Prints tables and lines of text below each other, also where a pipe or a terminal is narrower than they are."""
    console = Console(highlight=False, markup=False, emoji=False)
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
