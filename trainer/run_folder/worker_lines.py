"""Worker lines are what workers say to the user: a file brings them to the process that the user started."""

from contextlib import suppress
from pathlib import Path

from rich.console import Console

from shardrec.data_pipeline.files.owned_files import not_through_links

_FILE = "messages.txt"


def say(logs: Path, line: str) -> None:
    """Has the launching process print a line, on any machine that shares the run folder; logs have it too."""
    print(line, flush=True)
    with suppress(OSError), open(logs / _FILE, "a", opener=not_through_links) as file:
        file.write(" ".join(line.split()) + "\n")


class WorkerLines:
    """Worker lines are printed as they come, each one once."""

    def __init__(self, logs: str | Path, console: Console) -> None:
        self._path, self._console, self._shown = Path(logs) / _FILE, console, 0

    def passed_over(self) -> list[str]:
        """Takes the lines that are there for printed, and returns them."""
        lines: list[str] = []
        with suppress(OSError):
            *lines, _ = self._path.read_text().split("\n")
            self._shown = len(lines)
        return lines

    def show(self) -> None:
        """Prints the complete lines that are new."""
        with suppress(OSError):
            *lines, _ = self._path.read_text().split("\n")
            for line in lines[self._shown :]:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._shown = len(lines)
