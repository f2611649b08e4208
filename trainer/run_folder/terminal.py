"""Commands write results to standard output and messages to standard error, and cut no number off."""

import errno
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

WIDEST = 10_000
"""Characters that a line of a table may take."""
READABLE = 100
"""Characters that a line of a table may take wherever it is printed, and in a wider terminal as many as that has."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


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
        if error.errno in _REFUSED:
            line += "; change its permissions, or name another place"
    return f"shardrec: error: {' '.join(line.split())}"


@dataclass(frozen=True)
class PlainTable:
    """A plain table has no rules; but for the columns in `left` its cells are aligned as numbers.

    Its first columns, as far as they are in `left` and the first one in any case, are what its lines are known by.
    """

    columns: Sequence[str]
    lines: Sequence[Sequence[str | Text]]
    left: Container[str] = ()
    title: str | None = None

    @property
    def names(self) -> list[int]:
        """Returns the places of the columns that lines are known by."""
        return [0, *takewhile(lambda place: self.columns[place] in self.left, range(1, len(self.columns)))]

    def of(self, places: Sequence[int], title: str | None = None) -> Table:
        """Returns some of its columns, as they are drawn."""
        table = Table(box=None, header_style="bold", title=title)
        for place in places:
            justify: Literal["left", "right"] = "left" if self.columns[place] in self.left else "right"
            table.add_column(self.columns[place], justify=justify, no_wrap=True)
        for line in self.lines:
            table.add_row(*(line[place] for place in places))
        return table


def plain_table(
    columns: Iterable[str],
    lines: Iterable[Iterable[str | Text]],
    *,
    left: Container[str] = (),
    title: str | None = None,
) -> PlainTable:
    """Returns a table to be printed whole."""
    return PlainTable(list(columns), [list(line) for line in lines], left, title)


def print_table(console: Console, table: PlainTable) -> None:
    """Prints a table whole. One that is too wide to read goes on below itself, in blocks that begin with its names.

    A block has the columns that the terminal has room for, or `READABLE` where that is narrower or is none.
    """
    width, names = console.width, table.names
    limit = max(READABLE, width, _needed(console, table.of(names)) + READABLE // 2)
    blocks: list[list[int]] = []
    for column in range(len(names), len(table.columns)):
        if not blocks or _needed(console, table.of([*names, *blocks[-1], column])) > limit:
            blocks.append([])
        blocks[-1].append(column)
    for place, block in enumerate(blocks or [[]]):
        part = table.of([*names, *block], None if place else table.title)
        if place:
            console.print()
        console.width = max(width, _needed(console, part))  # a narrow terminal breaks lines, and cuts no number
        console.print(part)
    console.width = width


def _needed(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=WIDEST)).maximum


def print_whole(*parts: PlainTable | str) -> None:
    """Prints tables and lines of text below each other, also where a pipe or a terminal is narrower than they are."""
    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        if isinstance(part, PlainTable):
            print_table(console, part)
        else:
            console.print(part, soft_wrap=True)
