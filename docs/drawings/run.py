"""Draws a run: trains the demo in a terminal and writes what it shows to `run.svg`.

    python docs/drawings/run.py

The picture has the progress bar as it stood in the middle of training, which vanishes when the run is over, and what
stays. It is made anew by hand, when what a run prints has changed: two runs never print the same figures.
"""

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("train", "trainer/runs/demo.yaml")
COLUMNS = 112


class Screen:
    """A screen is the lines of a terminal, with their colours, as far as a progress bar needs one."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = 0

    def write(self, text: str) -> None:
        """Shows text with the escapes that a progress bar makes: colours, a line erased, one line up."""
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif part.endswith("A") and part.startswith("\x1b"):
                self._row = max(0, self._row - 1)
            elif part.endswith("K") and part.startswith("\x1b"):
                self.lines[self._row] = ""
            elif part != "\r" and not part.startswith("\x1b[?"):
                self.lines[self._row] += part


def shown(folder: Path) -> list[str]:
    """Trains in `folder`, where the data are; returns the lines to draw."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "shardrec", COMMAND[0], str(ROOT / COMMAND[1])]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm-256color"}
    environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.Popen(command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    screen, bars = Screen(), []
    while True:
        try:
            data = os.read(main, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        screen.write(data.decode(errors="replace"))
        bars += [line for line in screen.lines if Text.from_ansi(line).plain.startswith("training")]
    if process.wait() != 0:
        raise SystemExit("\n".join(screen.lines))
    return [*bars[len(bars) // 2 :][:1], *screen.lines]


def main() -> None:
    """Prepares the demo's data in a folder of its own, trains on them and draws."""
    with tempfile.TemporaryDirectory() as folder:
        prepare = [sys.executable, "-m", "shardrec", "prepare", "synthetic", "demo/data"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(prepare, cwd=folder, check=True, capture_output=True, env=environment)
        lines = [line.replace(f"{folder}/", "") for line in shown(Path(folder))]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in [f"$ shardrec {' '.join(COMMAND)}", *lines]:
        console.print(Text.from_ansi(line.rstrip()), overflow="fold")
    own_fonts = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # none is fetched
    own_fonts = own_fonts.replace("<svg ", '<svg xml:space="preserve" ', 1)
    title = f"shardrec {' '.join(COMMAND)}"
    svg = console.export_svg(title=title, code_format=own_fonts, unique_id="run")
    Path(__file__).with_name("run.svg").write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE))


if __name__ == "__main__":
    main()
