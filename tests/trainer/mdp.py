"""A decision process of few states, solved by dynamic programming, and logs of it as Parquet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema


@dataclass(frozen=True)
class Decisions:
    """Taking action a in state s gives `reward[s, a]` on average; state s' follows with probability `next[s, a, s']`.

    Nothing follows with what is left of 1. Probabilities are multiples of 1 / `parts`; a reward is its mean plus or
    minus `noise`, evenly.
    """

    reward: np.ndarray
    next: np.ndarray
    parts: int
    noise: float

    @classmethod
    def drawn(cls, states: int, actions: int, *, parts: int = 5, noise: float = 0.5, seed: int = 0) -> "Decisions":
        draw = np.random.default_rng(seed)
        share = 1 / (states + 1)
        counts = draw.multinomial(parts, [share] * (states + 1), (states, actions))
        return cls(draw.random((states, actions)) * 2, counts[..., :states] / parts, parts, noise)

    def values(self, discount: float) -> np.ndarray:
        """The optimal Q [S, A], by iteration over values."""
        q = np.zeros_like(self.reward)
        for _ in range(2000):
            q = self.reward + discount * self.next @ q.max(1)
        return q

    def schema(self) -> Schema:
        states, actions = self.reward.shape
        s, a = Identity(num_ids=states), Identity(num_ids=actions)
        listed: dict[str, Any] = {"place": "next_candidate", "max_length": actions, "aligned": "next_actions"}
        return Schema(
            features=(
                IdFeature(name="state", ids=s, role="user"),
                DenseFeature(name="bias", role="context"),
                IdFeature(name="action", ids=a, role="item"),
                IdFeature(name="next_state", ids=s, table="state", place="next", of="state"),
                DenseFeature(name="next_bias", place="next", of="bias"),
                SequenceFeature(name="next_actions", ids=a, table="action", of="action", **listed),
            ),
            labels=(Label(name="reward"), Label(name="terminal")),
        )

    def log(self, *, marked: bool = True) -> pa.Table:
        """Every outcome of every action, as often as it is likely: expectations over the rows are the true ones.

        Without `marked` no row is said to be terminal, whatever has no candidates.
        """
        states, actions = self.reward.shape
        rows = []
        for s in range(states):
            for a in range(actions):
                counts = np.rint(self.next[s, a] * self.parts).astype(int)
                follows = [*np.arange(states).repeat(counts), *[-1] * (self.parts - counts.sum())]
                rows += [(s, a, n, self.reward[s, a] + sign * self.noise) for n in follows for sign in (-1, 1)]
        state, action, following, reward = (np.array(column) for column in zip(*rows, strict=True))
        log = transitions(state, action, following, reward, [list(range(actions))] * len(rows))
        at = log.column_names.index("terminal")
        return log if marked else log.set_column(at, "terminal", [np.zeros(len(rows), np.float32)])

    def pairs(self) -> pa.Table:
        """A row for each state and action, as one to be predicted: nothing of what followed."""
        states, actions = self.reward.shape
        one = np.ones(states * actions, np.float32)
        return pa.table(
            {"state": np.arange(states).repeat(actions), "action": np.tile(np.arange(actions), states), "bias": one}
        )


def transitions(
    state: np.ndarray, action: np.ndarray, following: np.ndarray, reward: np.ndarray, candidates: list[list[int]]
) -> pa.Table:
    """Rows of a log; a next state of -1 is none, and has no candidates."""
    ends, one = following < 0, np.ones(len(state), np.float32)
    listed = [[] if end else some for end, some in zip(ends, candidates, strict=True)]
    return pa.table(
        {
            "state": state,
            "bias": one,
            "action": action,
            "next_state": np.maximum(following, 0),
            "next_bias": one,
            "next_actions": pa.array(listed, pa.list_(pa.int64())),
            "reward": reward.astype(np.float32),
            "terminal": ends.astype(np.float32),
        }
    )


def write(folder: Path, schema: Schema, **splits: pa.Table) -> Path:
    for split, table in splits.items():
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "0.parquet", row_group_size=150)
    schema.save(folder / "schema.yaml")
    return folder
