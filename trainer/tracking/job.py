"""A job is all that a follower needs to know, handed over as one line of JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Ending = Literal["finished", "failed", "stopped"]
"""How a training ends, as trackers say it; stopped: by the user, or by a kill."""

ENDINGS: tuple[Ending, ...] = ("finished", "failed", "stopped")


@dataclass(frozen=True)
class Job:
    """A job names a run folder and a tracker.

    logs: where lines to the user go. name: of the run. group: of the runs that it belongs to, if any. settings: of the
    tracker, in the run file. config: the resolved run file. directory: where relative places of the tracker are.
    """

    tracker: str
    folder: str
    logs: str
    name: str
    group: str | None
    settings: dict[str, Any]
    config: dict[str, Any]
    directory: str

    @property
    def place(self) -> Path:
        """Returns the folder, in the run folder, of what trackers keep there."""
        return Path(self.folder) / "tracking"

    def dump(self) -> str:
        """Returns the job as one line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, line: str) -> "Job":
        """Reads what `dump` wrote."""
        return cls(**json.loads(line))
