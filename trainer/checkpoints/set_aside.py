"""A checkpoint that a run does not go on from is moved out of its way, under a name that no command looks for."""

import itertools
from pathlib import Path

from shardrec.data_pipeline.stores.location import Location


def moved_aside(checkpoint: Location, why: str = "set-aside") -> Location:
    """Renames `step-N` to `step-N.WHY`, or to one with a number where that is there; returns where it is.

    In a store that copies its files.
    """
    for number in itertools.count(1):
        aside = checkpoint.with_name(f"{checkpoint.name}.{why}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            put_back(checkpoint, aside)
            return aside
    raise AssertionError


def put_back(aside: Location, checkpoint: Location) -> None:
    """Renames one to the other, of one disk or store."""
    if isinstance(aside, Path):
        assert isinstance(checkpoint, Path)
        aside.rename(checkpoint)
    else:
        assert not isinstance(checkpoint, Path)
        aside.rename(checkpoint)
