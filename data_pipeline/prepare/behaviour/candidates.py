"""Leave-one-out evaluation ranks a user's held-out item among candidates that the user never had."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.prepare.steps.option_values import ROW_GROUP_ROWS
from shardrec.data_pipeline.prepare.steps.source import RawSource
from shardrec.data_pipeline.prepare.steps.splits import draw
from shardrec.data_pipeline.prepare.steps.writer import Split
from shardrec.data_pipeline.sampling.negatives import ATTEMPTS
from shardrec.data_pipeline.sampling.pairs import PairSet


class CodeValues(NamedTuple):
    """These are what the codes 0, 1, ... of users and items stand for, and the names of their columns."""

    users: pa.Array
    items: pa.Array
    columns: tuple[str, str] = ("user", "item")


class Pool(NamedTuple):
    """A pool is what negatives are drawn from. Users and items are codes.

    known: the pairs that are not drawn, with keys user x `num_items` + item
    items: [K] what may be drawn
    """

    known: PairSet
    num_items: int
    items: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, num_items: int, candidates: np.ndarray) -> "Pool":
        """Returns the pool of `candidates` without the known pairs, [n] users and items."""
        return cls(PairSet(np.unique(users.astype(np.int64) * num_items + items)), num_items, np.unique(candidates))

    def draw(self, users: np.ndarray, count: int, purpose: str, seed: int) -> np.ndarray:
        """Draws `count` items for each of [n] distinct users: uniform, without repetition, none that the user has.

        Returns [n, count]. What a user gets depends on the seed and the user only. Raises ValueError(index) for a user
        with too few left.
        """
        owners = np.repeat(users.astype(np.int64) * self.num_items, count)
        slots = np.tile(np.arange(count, dtype=np.uint64), len(users))
        user_words = np.repeat(users.astype(np.uint64), count)
        chosen = np.zeros(len(owners), np.int64)
        refused_at = np.arange(len(owners))
        for attempt in range(ATTEMPTS[-1]):
            words = [user_words[refused_at], slots[refused_at], np.full(len(refused_at), attempt, np.uint64)]
            chosen[refused_at] = self.items[(draw(purpose, seed, words) * len(self.items)).astype(np.int64)]
            keys = owners + chosen
            order = np.argsort(keys, kind="stable")
            refused = np.zeros(len(keys), bool)
            refused[order[1:][keys[order][1:] == keys[order][:-1]]] = True
            refused[self.known.places_of(keys)] = True
            refused_at = np.flatnonzero(refused)
            if not len(refused_at):
                break
        drawn = chosen.reshape(len(users), count)
        for index in np.unique(refused_at // count):
            drawn[index] = self._of_the_rest(int(users[index]), count, purpose, seed, int(index))
        return drawn

    def draw_each(self, users: np.ndarray, words: list[np.ndarray], purpose: str, seed: int) -> np.ndarray:
        """Draws an item that the user has not for each of [n] users, who may repeat; every draw is on its own.

        words: k arrays [n] that tell draws apart

        Items are as likely as they are frequent in `items`, which may repeat them. Raises ValueError(index) for a user
        who has them all.
        """
        owners = users.astype(np.int64) * self.num_items
        counters = [word.astype(np.uint64) for word in words]
        chosen = np.empty(len(users), np.int64)
        waiting = np.arange(len(users))
        for attempt in range(ATTEMPTS[-1]):
            chosen[waiting] = self._any(self.items, counters, waiting, attempt, purpose, seed)
            waiting = waiting[self.known.places_of(owners[waiting] + chosen[waiting])]
            if not len(waiting):
                break
        for owner in np.unique(owners[waiting]):
            mine = waiting[owners[waiting] == owner]
            has = self.known.between(int(owner), int(owner) + self.num_items) - owner
            rest = self.items[~np.isin(self.items, has)]
            if not len(rest):
                raise ValueError(int(mine[0]))
            chosen[mine] = self._any(rest, counters, mine, ATTEMPTS[-1], purpose, seed)
        return chosen

    @staticmethod
    def _any(
        items: np.ndarray, counters: list[np.ndarray], places: np.ndarray, attempt: int, purpose: str, seed: int
    ) -> np.ndarray:
        words = [*(counter[places] for counter in counters), np.full(len(places), attempt, np.uint64)]
        return items[(draw(purpose, seed, words) * len(items)).astype(np.int64)]

    def _of_the_rest(self, user: int, count: int, purpose: str, seed: int, place: int) -> np.ndarray:
        first = user * self.num_items
        rest = np.setdiff1d(self.items, self.known.between(first, first + self.num_items) - first)
        if len(rest) < count:
            raise ValueError(place)
        words = [np.full(len(rest), user, np.uint64), rest.astype(np.uint64)]
        return rest[np.argsort(draw(purpose, seed, words), kind="stable")[:count]]


@dataclass(kw_only=True)
class CandidateRows(RawSource):
    """Candidate rows are those of users and items in memory: a user's first item has label 1, the others 0.

    users: [n] codes
    items: [n, C] codes; where one repeats the first of its line, it is left out
    """

    path: str
    split: Split | None
    values: CodeValues
    users: np.ndarray
    items: np.ndarray

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the rows of users one after another."""
        each = self.items_each
        step = max(ROW_GROUP_ROWS // each, 1)
        for start in range(0, len(self.users), step):
            users, items = self.users[start : start + step], self.candidates(start, start + step)
            labels = np.zeros(items.shape, np.int8)
            labels[:, 0] = 1
            taken_columns = (
                self.values.users.take(pa.array(np.repeat(users, each))),
                self.values.items.take(items.ravel()),
            )
            names = [*self.values.columns, "label"]
            rows = pa.RecordBatch.from_arrays([*taken_columns, pa.array(labels.ravel())], names=names)
            repeats = (items == items[:, :1]) & (labels == 0)
            yield rows.filter(pa.array(~repeats.ravel())) if repeats.any() else rows, Origin(self.path, start * each)

    @property
    def items_each(self) -> int:
        """Returns C, the items of each user."""
        return self.items.shape[1]

    def candidates(self, start: int, stop: int) -> np.ndarray:
        """Returns [stop - start, C]: the items of users start .. stop."""
        return self.items[start:stop]


@dataclass(kw_only=True)
class SampledRows(CandidateRows):
    """Sampled rows are positives, `items` [n, 1], each with `negatives` items drawn from a pool."""

    pool: Pool
    negatives: int
    seed: int

    @property
    def items_each(self) -> int:
        """Returns how many items each user has, the positive included."""
        return 1 + self.negatives

    def candidates(self, start: int, stop: int) -> np.ndarray:
        """Returns the positives and what is drawn for them. Raises UserError for a user who has nearly all items."""
        users = self.users[start:stop]
        try:
            drawn = self.pool.draw(users, self.negatives, str(self.split), self.seed)
        except ValueError as error:
            user = self.values.users[int(users[error.args[0]])].as_py()
            raise UserError(
                f"{self.path}: user {user!r} has nearly all of the {len(self.pool.items)} items of the training rows, "
                f"too many to draw {self.negatives} others; ask for fewer candidates"
            ) from None
        return np.concatenate([self.items[start:stop], drawn], axis=1)


def note_unknown(counts: Mapping[Split, tuple[int, int]], fate: str) -> tuple[str, ...]:
    """Returns the report's line on positives whose item no training row has; none where there are none.

    counts: split -> how many, and of how many
    """
    shares = ", ".join(f"{some:,} of {every:,} in {split}" for split, (some, every) in counts.items() if some)
    return (f"held-out items that no training row has: {shares}; {fate}",) if shares else ()


def shuffled(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """Returns an order of [n] rows, uniform by the seed: logs come sorted by user."""
    return np.argsort(draw("order", seed, [users.astype(np.uint64), items.astype(np.uint64)]), kind="stable")
