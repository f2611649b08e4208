"""A target policy is the one that is judged: it says with which probability it shows each candidate of a row.

greedy                 the candidate of the highest score; ties share
softmax:T              exp(score / T) / sum of the row's
epsilon-greedy:E       greedy with probability 1 - E, any candidate with probability E
uniform                every candidate alike
frequencies:LOG        as often as another log shows it, at the row's position where the log has one
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.trainer.off_policy.choices import Choices, places_of
from shardrec.trainer.off_policy.intervals import Floats

Scored = Literal["greedy", "softmax", "epsilon-greedy"]
SCORED: tuple[Scored, ...] = get_args(Scored)
UNIFORM, FREQUENCIES = "uniform", "frequencies"
_FORMS = "greedy, softmax:T (T > 0), epsilon-greedy:E (E from 0 to 1), uniform or frequencies:LOG"


class TargetPolicy(Protocol):
    """A target policy gives probabilities."""

    def __call__(self, choices: Choices) -> Floats:
        """Returns the probability of each candidate, [T], which sum to 1 in every row."""


class Asked(NamedTuple):
    """An asked policy is what `--policy` says: its kind, and a number or a log behind the colon."""

    kind: str
    number: float = 0.0
    log: str = ""

    @property
    def needs_model(self) -> bool:
        """Tells whether it chooses by scores."""
        return self.kind in SCORED


def parse_policy(text: str) -> Asked:
    """Returns what a policy's text asks for. Raises UserError for anything else."""
    kind, colon, rest = text.partition(":")
    if kind == FREQUENCIES and rest:
        return Asked(kind, log=rest)
    if kind in (UNIFORM, "greedy") and not colon:
        return Asked(kind)
    if kind in ("softmax", "epsilon-greedy"):
        try:
            number = float(rest)
        except ValueError:
            number = -1.0
        if isfinite(number) and (0 <= number <= 1 if kind == "epsilon-greedy" else number > 0):
            return Asked(kind, number)
    raise UserError(f"--policy: found {shortened(text)!r}, expected {_FORMS}")


def uniform(choices: Choices) -> Floats:
    """Returns equal probabilities."""
    return choices.shared(np.ones(len(choices.actions)))


@dataclass(frozen=True)
class ScoredPolicy:
    """A scored policy chooses by a model's scores."""

    kind: Scored
    number: float = 0.0

    def __call__(self, choices: Choices) -> Floats:
        """Returns the probabilities of candidates with scores."""
        assert choices.scores is not None
        best = np.repeat(np.maximum.reduceat(choices.scores, choices.offsets[:-1]), choices.lengths)
        if self.kind == "softmax":
            return choices.shared(np.exp((choices.scores - best) / self.number))
        greedy = choices.shared((choices.scores == best).astype(np.float64))
        if self.kind == "greedy":
            return greedy
        return (1 - self.number) * greedy + self.number * uniform(choices)


@dataclass(frozen=True)
class Frequencies:
    """Frequencies are how often a log shows each action at each position: a sparse table of codes and rows.

    actions, positions: ascending values; rows: [positions, actions] int64
    """

    name: str
    positions: NDArray[np.int64]
    actions: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, positions: NDArray[np.int64], actions: NDArray[np.int64]) -> "Frequencies":
        """Counts the rows of a log: [n] each."""
        known_positions, position = np.unique(positions, return_inverse=True)
        known_actions, action = np.unique(actions, return_inverse=True)
        shape = (len(known_positions), len(known_actions))
        counts = np.bincount(position * shape[1] + action, minlength=shape[0] * shape[1])
        return cls(name, known_positions, known_actions, counts.reshape(shape))

    def __call__(self, choices: Choices) -> Floats:
        """Returns the probabilities. Raises UserError for rows none of whose candidates the log shows there."""
        position, at_position = places_of(self.positions, np.repeat(choices.positions, choices.lengths))
        action, shown = places_of(self.actions, choices.actions)
        mass = np.where(at_position & shown, self.rows[position, action], 0).astype(np.float64)
        empty = np.flatnonzero(choices.sums(mass) == 0)
        if len(empty):
            position = choices.positions[empty[0]]
            raise UserError(
                f"--policy {FREQUENCIES}:{self.name}: that log shows none of a row's {choices.lengths[empty[0]]} "
                f"candidates at its position {position}; name a log of the same actions and positions"
            )
        return choices.shared(mass)
