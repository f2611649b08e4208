"""Negatives are rows of a training row's user and context, with items that the user has not in training.

A draw is the XXH64 of (seed, epoch, attempt, the row's place in the data set, which of the row's negatives), so that it
does not depend on lanes, workers or other rows and needs no generator that a resumed run would have to restore. A draw
that hits a training row of its user is made again; a user who has nearly all items is served from what is left of
them, so that negatives are uniform for every user.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.hashing import hash_words
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.index import DataSet, Fingerprint, Index, fingerprints
from shardrec.data_pipeline.sampling.catalogue import READ_ROWS, FirstRows, chunks_of, items_of
from shardrec.data_pipeline.sampling.pairs import PairSet
from shardrec.data_pipeline.sampling.settings import NegativeSampling

ATTEMPTS = (0, 1, 4, 12, 32)
"""Draws are tried so often, in these rounds; then one is made of what is left (1 in 1,300 where 80 % are known)."""

_PURPOSE = int.from_bytes(b"negative", "little")  # of these random numbers, among all that the seed has


@dataclass(frozen=True, eq=False)
class Negatives:
    """These are all that drawing needs: read once, by one process, and given to the others.

    known: keys user x `item_rows` + item of the training rows
    catalogue: the candidates, a row each, as `layout` reads them, by ascending item
    item_features: the features that a drawn item brings along
    fingerprints: of the files of items, if there are some, in the orders in which they may have been read
    """

    settings: NegativeSampling
    known: PairSet
    item_rows: int
    catalogue: Block
    layout: Layout
    item_features: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...] = ()

    @classmethod
    def read(
        cls, settings: NegativeSampling, train: DataSet, schema: Schema, folder: str, *, skips_bad: bool = False
    ) -> "Negatives":
        """Reads the users and items of all training rows, and the catalogue.

        schema: of the features that the model reads, and of the user and the item; folder: of its vocabularies
        skips_bad: training rows that cannot be read are left out

        Raises UserError for what cannot be drawn, for a training row that is not a positive, for a user who has all
        candidates, and for an item that the file of items has twice.
        """
        names = settings.item_features(schema)
        user_rows, item_rows = (schema[name].num_embeddings for name in (settings.user, settings.item))
        if user_rows * item_rows >= 2**63:
            raise UserError(
                f"data.negatives: {user_rows} users x {item_rows} items exceed 64-bit keys; hash them to fewer ids"
            )
        read = only(schema, (settings.user, *(names if settings.items is None else names[:1])))
        layout = Layout(read.model_copy(update={"labels": schema.labels[:1]}), folder)
        user, item = layout.id_row(settings.user), layout.id_row(settings.item)
        catalogue, keys = FirstRows(item), []
        for block in positives(train.index, layout, skips_bad=skips_bad):
            keys.append(block.ids[user].astype(np.int64) * item_rows + block.ids[item])
            if settings.items is None:
                catalogue.add(block)
        known = np.concatenate(keys)
        del keys
        known.sort()
        pairs = PairSet(known[np.concatenate([[True], known[1:] != known[:-1]])])
        if settings.items is None:
            negatives = cls(settings, pairs, item_rows, catalogue.block(), layout, names)
        else:
            source, layout = DataSet.open(settings.items), Layout(only(schema, names), folder)
            block = items_of(source.index, layout, settings.item)
            negatives = cls(settings, pairs, item_rows, block, layout, names, fingerprints(settings.items))
        negatives._check_something_is_left()
        return negatives

    @property
    def candidates(self) -> np.ndarray:
        """Returns [C] int64, ascending: the items that may be drawn."""
        return self.catalogue.ids[self.layout.id_row(self.settings.item)].astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Returns the memory of the known pairs and the catalogue."""
        return self.known.nbytes + self.catalogue.nbytes

    @property
    def holds(self) -> str:
        """Says what the memory is for."""
        return f"{len(self.known.keys)} known pairs and {len(self.candidates)} items"

    def _check_something_is_left(self) -> None:
        """Raises UserError for a user who has all candidates. One pass over the sorted keys."""
        keys, candidates = self.known.keys, self.candidates
        last, has = -1, 0  # the user whose keys may go on in the next chunk
        for start in range(0, len(keys), READ_ROWS):
            users, items = np.divmod(keys[start : start + READ_ROWS], self.item_rows)
            if self.settings.items is not None:
                place = np.minimum(np.searchsorted(candidates, items), len(candidates) - 1)
                users = users[candidates[place] == items]
            if not len(users):
                continue
            owners, counts = np.unique(users, return_counts=True)
            counts[0] += has if owners[0] == last else 0
            full = owners[counts == len(candidates)]
            if len(full):
                user = self.settings.user
                raise UserError(
                    f"data.negatives: {user} {full[0]} (that is its table row) has all {len(candidates)} candidates in "
                    f"training, so that none is left to draw; leave that {user} out, or name more items by "
                    "data.negatives.items"
                )
            last, has = int(owners[-1]), int(counts[-1])


class NegativeSampler:
    """A sampler adds negatives to the blocks of a loader."""

    def __init__(self, negatives: Negatives, layout: Layout, seed: int) -> None:
        """Draws for blocks of this layout, which has the user and the item."""
        settings = negatives.settings
        self._negatives, self._seed = negatives, seed
        self._layout = layout
        self._user = layout.id_row(settings.user)
        self._candidates = negatives.candidates

    def state(self) -> dict[str, Any]:
        """Returns what decides the draws beside the order and its seed, for a checkpoint."""
        fingerprints = self._negatives.fingerprints
        return self._negatives.settings.state() | {"items": fingerprints[0].value if fingerprints else None}

    def matches(self, saved: object) -> bool:
        """Tells whether draws are those of the sampler that had this `state()`."""
        now = self.state()
        if isinstance(saved, dict) and any(f.matches(saved.get("items")) for f in self._negatives.fingerprints):
            saved = saved | {"items": now["items"]}
        return saved == now

    def with_negatives(self, parts: list[Block], epoch: int) -> list[Block]:
        """Returns the rows of all parts, then the first negative of each, then the second of each, and so on.

        A negative has the place, weight, group and features of its row, but for the item's, and label 0.
        """
        if not parts:
            return parts
        rows, negatives = Block.join(parts), self._negatives
        return [
            rows,
            *(
                self._layout.with_features(
                    rows, negatives.item_features, negatives.layout, negatives.catalogue.take(chosen)
                )
                for chosen in self.draw(rows.ids[self._user], rows.places[0], epoch)
            ),
        ]

    def draw(self, users: np.ndarray, places: np.ndarray, epoch: int) -> np.ndarray:
        """Draws an item for each negative of some rows.

        users, places: [n] of rows, the latter in the data set

        Returns [per_positive, n] int64 rows of the catalogue.
        """
        per_positive = self._negatives.settings.rows_per_positive - 1
        row_count, known = len(users), self._negatives.known
        counters = (places * per_positive + np.arange(per_positive)[:, None]).ravel().view(np.uint64)
        owners = np.tile(users.astype(np.int64) * self._negatives.item_rows, per_positive)
        chosen = np.empty(len(owners), np.int64)
        waiting = np.arange(len(owners))
        for first, after in pairwise(ATTEMPTS):
            tried = self._uniform(counters[waiting], epoch, first, after, len(self._candidates))
            free = np.ones(tried.shape, bool)
            free.ravel()[known.places_of((owners[waiting] + self._candidates[tried]).ravel())] = False
            chosen[waiting] = tried[free.argmax(0), np.arange(len(waiting))]
            waiting = waiting[~free.any(0)]
            if not len(waiting):
                break
        for owner in np.unique(owners[waiting]):
            mine = waiting[owners[waiting] == owner]
            left = self._left(int(owner))
            last = self._uniform(counters[mine], epoch, ATTEMPTS[-1], ATTEMPTS[-1] + 1, len(left))
            chosen[mine] = left[last[0]]
        return chosen.reshape(per_positive, row_count)

    def _uniform(self, counters: np.ndarray, epoch: int, first: int, after: int, most: int) -> np.ndarray:
        """Returns [after - first, n] int64 in [0, most), attempts first .. after of [n] uint64 counters."""
        attempts = np.repeat(np.arange(first, after, dtype=np.uint64), len(counters))
        random = hash_words([np.tile(counters, after - first), attempts], _stream(self._seed, epoch)) >> np.uint64(11)
        return (random.view(np.int64) * (2.0**-53 * most)).astype(np.int64).reshape(after - first, len(counters))

    def _left(self, owner: int) -> np.ndarray:
        """Returns the rows of the catalogue that a user has not; there are some (`Negatives.read`)."""
        known = self._negatives.known.between(owner, owner + self._negatives.item_rows) - owner
        return np.flatnonzero(~np.isin(self._candidates, known, assume_unique=True))


@lru_cache(maxsize=8)
def _stream(seed: int, epoch: int) -> int:
    """Returns the seed of an epoch's draws."""
    return int(hash_words([np.array([word % 2**64], np.uint64) for word in (_PURPOSE, seed, epoch)])[0])


def positives(index: Index, layout: Layout, *, skips_bad: bool) -> Iterator[Block]:
    """Yields all training rows in order. Raises UserError for one whose label, if it has one, is not over 0.

    skips_bad: without those that cannot be read.
    """
    for chunk in chunks_of(index, layout, skips_bad=skips_bad):
        block = layout.block(chunk)
        for label in layout.schema.labels:
            values = block.numbers[:, len(layout.dense_names)]
            wrong = np.flatnonzero(values <= 0)
            if len(wrong):
                row = Origin(chunk.where, chunk.first_row).row(wrong[0])
                raise UserError(
                    f"{row}: label {label.name!r} is {values[wrong[0]]:g}, but data.negatives takes every training row "
                    "as a positive and draws others for it; keep only rows of labels over 0, or leave negatives out"
                )
        yield block


def check_negatives(sampling: NegativeSampling, schema: Schema, features: Iterable[str], folder: str) -> None:
    """Raises UserError for what cannot be drawn, and for an `items` file that lacks a column.

    features: those that the model reads; folder: of the schema's vocabularies
    """
    names = sampling.item_features(sampling.read_from(schema, features))
    if sampling.items is not None:
        Layout(only(schema, names), folder).check(DataSet.open(sampling.items).index)


def only(schema: Schema, names: Iterable[str]) -> Schema:
    return schema.unlabelled().subset(names)
