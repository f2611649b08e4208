"""The summary file of a run folder says in JSON what a run came to, once it is over."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shardrec.data_pipeline.errors import UserError


class _Summary(BaseModel):
    """The types of what commands read in summary.json; what an earlier version did not write may be missing."""

    finished: bool = True
    metrics: dict[str, dict[str, float | None]] = {}
    parameters: dict[str, int] = {}
    steps: int = 0
    rows: int = 0
    samples_per_second: float = 0
    world_size: int = 1
    first_step: int = 0
    best_step: int | None = None
    epochs_to_best: float | None = None
    stopped_early: bool = False
    data: dict[str, Any] = {}
    peak_memory_bytes: float = 0
    peak_device_memory_bytes: float = 0
    checkpoint_seconds: float = 0
    wall_seconds: float = 0
    seconds_to_first_step: float = 0
    zero_weights: dict[str, float] = {}
    undefined: dict[str, dict[str, str]] = {}
    not_scored: dict[str, str] = {}
    stages: dict[str, "_Summary"] = {}


def read_summary(path: Path) -> dict[str, Any] | None:
    """Returns the summary of a run that is over, by its own word; None while it is not.

    Raises UserError where the file holds something else.
    """
    try:
        summary = json.loads(path.read_bytes())
        _Summary.model_validate(summary)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # a ValidationError is one
        summary = None
    if summary is None:
        raise UserError(f"{path}: no run's summary (JSON); remove it: the run is unfinished then")
    return summary if summary.get("finished", True) else None  # a summary that does not say is an older one's
