"""What a worker has to say to the user goes through a file to the process that the user started, line by line."""

from contextlib import suppress
from pathlib import Path

from rich.console import Console

_FILE = "messages.txt"


def say(logs: Path, line: str) -> None:
    """Has the launching process print a line, on any machine that shares the run folder; logs have it too."""
    print(line, flush=True)
    with suppress(OSError), (logs / _FILE).open("a") as file:
        file.write(" ".join(line.split()) + "\n")


class Said:
    """What was said is printed as it comes, each line once."""

    def __init__(self, logs: str | Path, console: Console) -> None:
        self._path, self._console, self._shown = Path(logs) / _FILE, console, 0

    def show(self) -> None:
        """Prints the complete lines that are new."""
        with suppress(OSError):
            *lines, _ = self._path.read_text().split("\n")
            for line in lines[self._shown :]:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._shown = len(lines)
