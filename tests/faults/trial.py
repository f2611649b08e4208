"""A trial is one run and what befalls it in turn; its outcome says what came of it."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults import elastic, faults, stores

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "in_process": faults.ALONE,
    "torchrun": faults.RANKS,
    "store": stores.FAULTS,
    "ray-2": faults.ON_RAY,
    "ray-3": faults.ON_RAY,
    "elastic": elastic.EVENTS,
}
"""By launcher, what can befall its runs."""

IN_TURN = 4
"""Faults of one trial that a campaign makes."""


@dataclass(frozen=True)
class Trial:
    """A trial is what befalls a run of some launcher, as (fault, moment) one after another; its seed draws the rest."""

    seed: int
    launcher: str
    faults: tuple[tuple[str, str], ...]

    @classmethod
    def drawn(cls, launcher: str, seed: int) -> "Trial":
        """Returns the trial of a seed: each fault at each moment once, in drawn order, before any comes again."""
        if launcher == "elastic":
            return cls(seed, launcher, tuple((event, "step") for event in elastic.drawn(seed, IN_TURN).events))
        kinds = [(fault, moment) for fault in FAULTS[launcher] for moment in faults.MOMENTS]
        places = range(IN_TURN * seed, IN_TURN * (seed + 1))
        return cls(seed, launcher, tuple(_drawn(launcher, kinds, place) for place in places))


def _drawn(launcher: str, kinds: Sequence[tuple[str, str]], place: int) -> tuple[str, str]:
    """Returns what comes at a place of all kinds, again and again, each time in another order."""
    turn, place_in_turn = divmod(place, len(kinds))
    return random.Random(f"{launcher} {turn}").sample(kinds, len(kinds))[place_in_turn]


@dataclass
class Struck:
    """What one fault did to a run.

    befell: whether it came before the run was over. codes: exit codes of starts that ended before the next fault.
    lines: what the user was told by those. recovered: seconds from the fault to the next step that had not been made
    before; 0 where the next fault did not wait for it, or no step was left.
    """

    fault: str
    moment: str
    befell: bool = False
    recovered: float = 0.0
    codes: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """An outcome is how a trial ended; one that is `sound` lost nothing, repeated nothing and left nothing behind.

    steps_again: steps that were done again from the last checkpoint. left: files and processes. wrong: all that should
    not be, in words.
    """

    struck: list[Struck] = field(default_factory=list)
    equal: bool = False
    rows_lost: int = 0
    rows_repeated: int = 0
    steps_again: int = 0
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Returns whether all was as it should be."""
        return self.equal and not (self.rows_lost or self.rows_repeated or self.left or self.wrong)


def as_line(trial: Trial, outcome: Outcome) -> str:
    """Returns a trial and its outcome as a line of JSON."""
    return json.dumps({"seed": trial.seed, "launcher": trial.launcher} | asdict(outcome) | {"sound": outcome.sound})
