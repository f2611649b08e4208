"""A tracker is one run of MLflow's or of Weights & Biases', as a follower writes it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shardrec.trainer.tracking.job import Ending, Job
from shardrec.trainer.tracking.records import Record

FILES = ("config.yaml", "schema.yaml", "plan.txt", "summary.json")
"""What a tracker gets of a run folder once the run is over, where it is there."""

REPORT = "report.html"
"""What it gets of a run that is finished, where it is of the run as it is now."""


class Tracker(Protocol):
    """A tracker takes what a run records. Any error of its methods means that the call may be made again."""

    def open(self, job: Job, run: str | None) -> str:
        """Goes on with the tracker's own run of that name, or begins one; returns the name."""

    def send(self, records: Sequence[Record]) -> None:
        """Takes records, in their order."""

    def close(self, ending: Ending, summary: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Ends the run. summary: of a run that is finished, else empty. files: to be kept beside it."""


def flat(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Returns nested mappings as one, with paths for keys; an empty mapping is a value."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        result |= flat(value, f"{prefix}{key}{separator}", separator) if inner else {f"{prefix}{key}": value}
    return result


def plain_name(name: str) -> str:
    """Returns a name with what not all trackers take in one (`@`, `*`) replaced."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))
