"""A checkpoint that a run does not go on from is moved out of its way, under a name that no command looks for."""

import itertools
from pathlib import Path


def moved_aside(checkpoint: Path, why: str = "set-aside") -> Path:
    """Renames `step-N` to `step-N.WHY`, or to one with a number where that is there; returns where it is."""
    for number in itertools.count(1):
        aside = checkpoint.with_name(f"{checkpoint.name}.{why}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            return checkpoint.rename(aside)
    raise AssertionError
