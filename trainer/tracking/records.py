"""The lines of metrics.jsonl are read as they come, while another process, perhaps elsewhere, writes them."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """A record is a line of metrics.jsonl: what was found at a step, in seconds of the epoch, and its numbers."""

    kind: str
    step: int
    time: float
    values: dict[str, float]


class Records:
    """Records remember how far a file was read, and begin anew where it was replaced, as a resumed run does."""

    def __init__(self, file: Path) -> None:
        self._file, self._identity, self._offset = file, 0, 0

    def new(self) -> list[Record]:
        """Returns the complete lines that came since the last call; all of them where the file was replaced."""
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._identity or status.st_size < self._offset:
                    self._identity, self._offset = status.st_ino, 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [record for line in complete.splitlines() if (record := _record(line)) is not None]


def _record(line: bytes) -> Record | None:
    """Returns a line's record; None for a broken line, which costs a tracker nothing else."""
    try:
        found: dict[str, Any] = json.loads(line)
        kind, step, time = str(found.pop("kind")), int(found.pop("step")), float(found.pop("time", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    numbers = {n: float(v) for n, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return Record(kind, step, time, numbers)
