"""A record is what a check has found so far; its file is whole after every figure, whatever happens next."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from shardrec.trainer.benchmarks.gpu_check.page import page
from shardrec.trainer.run_folder.atomic import write_atomically

JSON, PAGE, LOG = "gpu-check.json", "gpu-check.md", "log.txt"
State = Literal["waiting", "running", "passed", "failed", "stopped", "left out"]
"""Stopped: it took longer than it may. Left out: too little time was left to begin it."""


@dataclass
class Found:
    """What was found in one section. error: one line; traceback: its last lines."""

    name: str
    title: str
    state: State = "waiting"
    seconds: float = 0.0
    error: str | None = None
    traceback: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class Record:
    """A record has the settings of a check and what each section found; `write` puts it down as JSON and as a page."""

    def __init__(self, folder: Path, settings: dict[str, Any], sections: Sequence[Found]) -> None:
        self.folder = folder
        self.settings = {**settings, "began": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        self.sections = list(sections)
        self._began = time.monotonic()

    @property
    def failed(self) -> list[Found]:
        """Returns the sections that failed or were stopped."""
        return [found for found in self.sections if found.state in ("failed", "stopped")]

    def as_json(self) -> dict[str, Any]:
        """Returns what the file holds."""
        seconds = round(time.monotonic() - self._began, 1)
        return {**self.settings, "seconds": seconds, "sections": [_finite(asdict(found)) for found in self.sections]}

    def write(self) -> None:
        """Puts the record down, each file at once."""
        whole = self.as_json()
        write_atomically(self.folder / JSON, json.dumps(whole, indent=1) + "\n")
        write_atomically(self.folder / PAGE, page(whole))


def _finite(value: Any) -> Any:
    """Returns a value that JSON can hold: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
