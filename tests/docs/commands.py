"""Commands in the documentation: `shardrec ...` in blocks and in running text, with page and line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shardrec.trainer.cli import command_line
from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_FILES = sorted((ROOT / "trainer/runs").glob("*.yaml"))
FENCE = re.compile(r"^```(\w*)$")
SHELLS = ("", "sh", "bash", "console")
INLINE = re.compile(r"`shardrec ([^`]+)`")
MARK = re.compile(r"^<!-- run: (\w+) -->$")
BETWEEN = {"&&", "||", ";", "|", "&"}


class Block(NamedTuple):
    """A block of a page: where its first line stands, its language ("": the shell's), and where tests run it."""

    page: str
    line: int
    language: str
    lines: list[str]
    run: str | None

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yields the shell's lines with their places, continued ones joined."""
        held, begun = "", 0
        for number, line in enumerate(self.lines, self.line):
            begun = begun if held else number
            held += line.strip()
            given = re.split(r"\s#\s", held)[0]
            if held.endswith("\\") or given.count("'") % 2:  # goes on in the next line
                held = held.removesuffix("\\") + " "
            elif held:
                yield f"{self.page}:{begun}", held
                held = ""


class Command(NamedTuple):
    """A command as it is given: `words` are what follows `shardrec`; `whole` is false for one mentioned in a text."""

    place: str
    words: tuple[str, ...]
    whole: bool = True


def blocks(page: Path) -> Iterator[Block]:
    """Yields a page's fenced and indented blocks; `<!-- run: NAME -->` before one has it run."""
    held: Block | None = None
    fenced, run = False, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        edge = FENCE.match(line)
        if held is not None and (edge if fenced else line and not line.startswith("    ")):
            yield held
            held, run, was_fenced, fenced = None, None, fenced, False
            if was_fenced:
                continue
        if held is not None:
            held.lines.append(line)
        elif edge:
            held, fenced = Block(page.name, number + 1, edge[1], [], run), True
        elif line.startswith("    "):
            held = Block(page.name, number, "", [line], run)
        elif line:
            mark = MARK.match(line)
            run = mark[1] if mark else None
    if held is not None:
        yield held


def simple_commands(line: str) -> list[list[str]]:
    """The words of each command of a line, as the shell splits it, without comments."""
    words = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    words.whitespace_split, words.commenters = True, ""
    parts: list[list[str]] = [[]]
    for word in words:
        if word.startswith("#"):
            break
        if word in BETWEEN:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def arguments(words: list[str]) -> tuple[str, ...] | None:
    """What follows `shardrec` in a command, also behind variables, `torchrun -m` and `ray job submit --`; else None."""
    while words and (words[0] == "$" or re.match(r"[A-Z_]+=", words[0])):
        words = words[1:]
    for place, word in enumerate(words):
        if word == "shardrec" and (place == 0 or words[place - 1] in ("-m", "--")):
            rest = tuple(words[place + 1 :])
            return None if rest and rest[0].endswith(":") else rest  # `shardrec serve: ...` is what one prints
    return None


def commands(page: Path) -> Iterator[Command]:
    """Yields all commands of a page, or of the comments of a run file."""
    if page.suffix == ".yaml":
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if found := re.match(r"#\s+shardrec (.*?)(?:\s{3,}.*)?$", line):
                yield Command(f"{page.name}:{number}", tuple(shlex.split(found[1])))
        return
    for block in blocks(page):
        for place, line in block.commands() if block.language in SHELLS else ():
            for words in simple_commands(line) if "shardrec" in line else ():
                if (rest := arguments(words)) is not None:
                    yield Command(place, rest)
    for number, text in enumerate(page.read_text().splitlines(), 1):
        for found in INLINE.finditer(text):
            yield Command(f"{page.name}:{number}", tuple(shlex.split(found[1])), whole=False)


def parse(words: tuple[str, ...]) -> None:
    """Parses a command as the command line does, and runs nothing.

    Raises click's UsageError for what it refuses, ValueError for an unknown command, LookupError where none is named.
    """
    command, left = command_line(), [_value(word) for word in words if word != "--help"]
    while hasattr(command, "commands"):
        if not left:
            raise LookupError("a command is missing")
        if left[0] not in command.commands:
            raise ValueError(f"there is no command {left[0]!r}")
        command = command.commands[left.pop(0)]
    command.make_context(" ".join(words), left).close()


def _value(word: str) -> str:
    """A number where a page says N."""
    return "1" if word in ("N", "K") else word
