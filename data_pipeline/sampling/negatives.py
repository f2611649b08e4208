"""Negatives: for every training row, rows of the same user and context with items that the user has not in training.

A draw is the XXH64 of (seed, epoch, attempt, the row's place in the data set, which of the row's negatives), so that it
does not depend on lanes, workers or other rows and needs no generator that a resumed run would have to restore. A draw
that hits a training row of its user is made again; a user who has nearly all items is served from what is left of
them, so that negatives are uniform for every user.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field

from shardrec.data_pipeline.declaration import Declaration, unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.hashing import hash_words
from shardrec.data_pipeline.features.schema import (
    DenseFeature,
    Feature,
    FeatureCross,
    IdFeature,
    Schema,
    SequenceFeature,
)
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.order import MOST_DEFAULT_LANES
from shardrec.data_pipeline.reading.parquet import Index, Source
from shardrec.data_pipeline.sampling.catalogue import READ_ROWS, FirstRows, check_columns, chunks_of, items_of

ATTEMPTS = (0, 1, 4, 12, 32)
"""Draws are tried so often, in these rounds; then one is made of what is left (1 in 1,300 where 80 % are known)."""

BITS_PER_PAIR = 16
"""Of the bitmap before the sorted pairs (16 to 32, being a power of two): it answers all but some 5 % of the draws."""

_PURPOSE = int.from_bytes(b"negative", "little")  # of these random numbers, among all that the seed has


class NegativeSampling(Declaration):
    """`data.negatives` of a run file: training rows are positives, and each gets `per_positive` negatives.

    user, item: the features whose pairs are known from training and never drawn
    items: a Parquet file with one row an item (its column and those of all features of role `item`), which are the
        candidates; None: the items of the training rows, with the features of their first row
    """

    per_positive: int = Field(default=4, gt=0)
    user: str = "user"
    item: str = "item"
    distribution: Literal["uniform"] = "uniform"
    items: str | None = None

    @property
    def rows_per_positive(self) -> int:
        return 1 + self.per_positive

    def positives_of(self, global_batch_size: int, lanes: int | None) -> int:
        """Positives of a global batch. Raises UserError unless they and their negatives fill it, in equal lanes."""
        each = self.rows_per_positive
        parts = lanes or 1
        if global_batch_size % (each * parts) == 0:
            return global_batch_size // each
        step = each * (lanes or MOST_DEFAULT_LANES)  # these multiples may have any default number of lanes
        step = step if step <= global_batch_size else each * parts
        below = global_batch_size // step * step
        raise UserError(
            f"data.global_batch_size {global_batch_size} counts negatives too and has to be a multiple of {each} "
            f"(1 + negatives.per_positive)" + (f" x {lanes} lanes" if lanes else "") + "; the nearest that suit: "
            f"{f'{below} or ' if below else ''}{below + step}"
        )

    def read_from(self, schema: Schema, features: Iterable[str]) -> Schema:
        """Of the features that a model reads, and of the pair; crosses have a role that says where they go.

        Raises UserError for a pair that a schema has not, and for a cross that goes neither with the item nor without.
        """
        names = [f.name for f in schema.features]
        for key, name in (("user", self.user), ("item", self.item)):
            if name not in names:
                raise UserError(f"data.negatives.{key}: {unknown('feature', name, names)}")
        read = []
        for f in schema.subset((*features, self.user, self.item)).features:
            if f.name not in (self.user, self.item) and not isinstance(f, DenseFeature) and f.cross is not None:
                f = f.model_copy(update={"role": "item" if self._goes_with_item(f, schema) else "context"})
            read.append(f)
        return schema.model_copy(update={"features": tuple(read)})

    def _goes_with_item(self, feature: Feature, schema: Schema) -> bool:
        """Whether a drawn item brings a feature along. Raises UserError where that is not known, or true of a part."""
        if feature.name in (self.user, self.item):
            return feature.name == self.item
        cross = None if isinstance(feature, DenseFeature) else feature.cross
        if cross is None:
            return self._role_of(feature) == "item"
        if isinstance(cross, FeatureCross):
            parts = {self._goes_with_item(source, schema) for source in cross.features}
        else:
            rows = schema if feature.columns == cross.columns else schema.raw()  # crossed at preparation: raw columns
            parts = {self._column_goes_with_item(column, feature, rows) for column in cross.columns}
        if len(parts) == 2:
            raise UserError(
                f"data.negatives: feature {feature.name!r} is a cross of the item with others and would keep the "
                "positive's id beside a drawn item, which gives the label away; leave it out of data.features or "
                "data.crosses"
            )
        return parts.pop()

    def _column_goes_with_item(self, column: str, cross: Feature, schema: Schema) -> bool:
        """A column that no feature of a role reads goes where the role of its cross says."""
        found = [f for f in schema.sparse if f.cross is None and column in f.columns]
        known = [f for f in found if f.role is not None or f.name in (self.user, self.item)]
        if not known:
            return self._role_of(cross) == "item"
        return any(f.name == self.item or (f.name != self.user and f.role == "item") for f in known)

    def _role_of(self, feature: Feature) -> str:
        if feature.role is None:
            raise UserError(
                f"data.negatives: feature {feature.name!r} has no role, so it is not known whether it goes with a "
                "drawn item; give it role: user, item or context in schema.yaml, or leave it out by data.features"
            )
        return feature.role

    def item_features(self, schema: Schema) -> tuple[str, ...]:
        """Those of the schema's features that a drawn item brings along, itself first.

        schema: as `read_from` gives it

        Raises UserError for a user or item that is not an id feature, for a feature without role, and for data that
        were down-sampled.
        """
        if schema.negative_rate != 1:
            raise UserError(
                f"data.negatives: the data keep the share {schema.negative_rate:g} of their negatives (schema.yaml's "
                "negative_rate), but others are drawn for rows that are all positives; prepare positives only"
            )
        for key, name in (("user", self.user), ("item", self.item)):
            if not isinstance(schema[name], IdFeature):
                raise UserError(
                    f"data.negatives.{key}: feature {name!r} is of kind {schema[name].kind}; expected one id a row"
                )
        others = [f for f in schema.features if f.name not in (self.user, self.item)]
        aligned: dict[str, str] = {}
        for f in others:
            role = self._role_of(f)
            if isinstance(f, SequenceFeature) and f.aligned and aligned.setdefault(f.aligned, role) != role:
                raise UserError(
                    f"data.negatives: sequences aligned as {f.aligned!r} have the roles {aligned[f.aligned]} and "
                    f"{f.role}; give them one role"
                )
        return (self.item, *(f.name for f in others if f.role == "item"))

    def check(self, schema: Schema, features: Iterable[str], folder: str) -> None:
        """Raises UserError for what cannot be drawn, and for an `items` file that lacks a column.

        features: those that the model reads
        """
        names = self.item_features(self.read_from(schema, features))
        if self.items is not None:
            check_columns(Source.open(self.items).index, Layout(_only(schema, names), folder))


class PairSet:
    """Known pairs as sorted int64 keys, with a bitmap before them. 10 to 12 bytes a pair.

    nbytes: memory of both
    """

    def __init__(self, keys: np.ndarray) -> None:
        """keys: [P] int64, sorted, each once."""
        self.keys = keys
        self._shift = np.uint64(64 - max((BITS_PER_PAIR * len(keys) - 1).bit_length(), 6))
        self._bits = np.zeros(1 << (64 - int(self._shift) - 3), np.uint8)
        for start in range(0, len(keys), READ_ROWS):
            byte, bit = self._bit_of(keys[start : start + READ_ROWS])
            np.bitwise_or.at(self._bits, byte, bit)
        self.nbytes = keys.nbytes + self._bits.nbytes

    def places_of(self, keys: np.ndarray) -> np.ndarray:
        """[n] int64 -> the places in `keys`, ascending, of those that are in the set."""
        byte, bit = self._bit_of(keys)
        maybe = np.flatnonzero(self._bits[byte] & bit)
        found = np.searchsorted(self.keys, keys[maybe])
        return maybe[self.keys[np.minimum(found, len(self.keys) - 1)] == keys[maybe]]

    def between(self, first: int, after: int) -> np.ndarray:
        """The keys in [first, after)."""
        return self.keys[slice(*np.searchsorted(self.keys, (first, after)))]

    def _bit_of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The byte of the bitmap, and the bit in it, that a key has (multiplicative hashing)."""
        hashed = (keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self._shift
        bit = np.left_shift(np.uint8(1), (hashed & np.uint64(7)).astype(np.uint8))
        return (hashed >> np.uint64(3)).view(np.int64), bit


@dataclass(frozen=True, eq=False)
class Negatives:
    """All that drawing needs: read once, by one process, and given to the others.

    known: keys user x `item_rows` + item of the training rows
    catalogue: the candidates, a row each, as `layout` reads them, by ascending item
    item_features: the features that a drawn item brings along
    fingerprint: of the file of items, if there is one
    """

    settings: NegativeSampling
    known: PairSet
    item_rows: int
    catalogue: Block
    layout: Layout
    item_features: tuple[str, ...]
    fingerprint: str | None = None

    @classmethod
    def read(cls, settings: NegativeSampling, train: Source, schema: Schema, folder: str) -> "Negatives":
        """Reads the users and items of all training rows, and the catalogue.

        schema: of the features that the model reads, and of the user and the item; folder: of its vocabularies

        Raises UserError for what cannot be drawn, for a training row that is not a positive, for a user who has all
        candidates, and for an item that the file of items has twice.
        """
        names = settings.item_features(schema)
        user_rows, item_rows = (schema[name].num_embeddings for name in (settings.user, settings.item))
        if user_rows * item_rows >= 2**63:
            raise UserError(
                f"data.negatives: {user_rows} users x {item_rows} items exceed 64-bit keys; hash them to fewer ids"
            )
        read = _only(schema, (settings.user, *(names if settings.items is None else names[:1])))
        layout = Layout(read.model_copy(update={"labels": schema.labels[:1]}), folder)
        user, item = layout.id_row(settings.user), layout.id_row(settings.item)
        catalogue, keys = FirstRows(item), []
        for block in _positives(train.index, layout):
            keys.append(block.ids[user].astype(np.int64) * item_rows + block.ids[item])
            if settings.items is None:
                catalogue.add(block)
        known = np.concatenate(keys)
        del keys
        known.sort()
        pairs = PairSet(known[np.concatenate([[True], known[1:] != known[:-1]])])
        if settings.items is None:
            found = cls(settings, pairs, item_rows, catalogue.block(), layout, names)
        else:
            source, layout = Source.open(settings.items), Layout(_only(schema, names), folder)
            block = items_of(source.index, layout, settings.item)
            found = cls(settings, pairs, item_rows, block, layout, names, source.index.fingerprint)
        found._check_something_is_left()
        return found

    @property
    def candidates(self) -> np.ndarray:
        """[C] int64, ascending: the items that may be drawn."""
        return self.catalogue.ids[self.layout.id_row(self.settings.item)].astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the known pairs and the catalogue."""
        return self.known.nbytes + self.catalogue.nbytes

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

    @property
    def pair(self) -> tuple[str, str]:
        """The user and the item feature."""
        return self.settings.user, self.settings.item


class NegativeSampler:
    """Adds negatives to the blocks of a loader."""

    def __init__(self, negatives: Negatives, layout: Layout, seed: int) -> None:
        """layout: of the loader's blocks, which have the user and the item."""
        settings = negatives.settings
        self._negatives, self._seed = negatives, seed
        self._layout = layout
        self._user = layout.id_row(settings.user)
        self._candidates = negatives.candidates

    def state(self) -> dict[str, Any]:
        """What decides the draws beside the order and its seed, for a checkpoint."""
        return self._negatives.settings.model_dump() | {"items": self._negatives.fingerprint}

    def with_negatives(self, parts: list[Block], epoch: int) -> list[Block]:
        """The rows of all parts, then the first negative of each, then the second of each, and so on.

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
        """[n] users and places of rows in the data set -> [per_positive, n] int64 rows of the catalogue."""
        each, rows, known = self._negatives.settings.per_positive, len(users), self._negatives.known
        counters = (places * each + np.arange(each)[:, None]).ravel().view(np.uint64)
        owners = np.tile(users.astype(np.int64) * self._negatives.item_rows, each)
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
        return chosen.reshape(each, rows)

    def _uniform(self, counters: np.ndarray, epoch: int, first: int, after: int, most: int) -> np.ndarray:
        """[n] uint64 counters -> [after - first, n] int64 in [0, most): attempts first .. after."""
        attempts = np.repeat(np.arange(first, after, dtype=np.uint64), len(counters))
        random = hash_words([np.tile(counters, after - first), attempts], _stream(self._seed, epoch)) >> np.uint64(11)
        return (random.view(np.int64) * (2.0**-53 * most)).astype(np.int64).reshape(after - first, len(counters))

    def _left(self, owner: int) -> np.ndarray:
        """The rows of the catalogue that a user has not; there are some (`Negatives.read`)."""
        known = self._negatives.known.between(owner, owner + self._negatives.item_rows) - owner
        return np.flatnonzero(~np.isin(self._candidates, known, assume_unique=True))


@lru_cache(maxsize=8)
def _stream(seed: int, epoch: int) -> int:
    """The seed of an epoch's draws."""
    return int(hash_words([np.array([word % 2**64], np.uint64) for word in (_PURPOSE, seed, epoch)])[0])


def _positives(index: Index, layout: Layout) -> Iterator[Block]:
    """All training rows in order. Raises UserError for one whose label, if it has one, is not over 0."""
    for chunk in chunks_of(index, layout):
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


def _only(schema: Schema, names: Iterable[str]) -> Schema:
    return schema.unlabelled().subset(names)
