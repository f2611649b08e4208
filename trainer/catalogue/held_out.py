"""Held-out items are what each user of a split was to be shown; what is known of the user already is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.reading.blocks import Block, offsets_of
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.sampling.catalogue import chunks_of
from shardrec.trainer.catalogue.items import (
    Catalogue,
    check_ids_alike,
    column_type,
    comparable,
    positives,
    user_feature,
)
from shardrec.trainer.config.sections import Paths
from shardrec.trainer.session.blueprint import Blueprint

JOINED_ROWS = 1 << 20
"""Rows whose users and items are looked up at once: each look-up makes a hash table of all users, or all items."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """Positions of items are held for each of Q users: offsets [Q + 1], positions [offsets[-1]]."""

    offsets: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, users: int, items: int) -> "Ragged":
        """Takes sorted keys, user x `items` + position."""
        owner, positions = np.divmod(keys, max(items, 1))
        return cls(offsets_of(np.bincount(owner, minlength=users)), positions)

    def slice(self, start: int, stop: int) -> "Ragged":
        """Returns the users start .. stop."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(offsets - offsets[0], self.positions[offsets[0] : offsets[-1]])


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out items of a split's Q users.

    users: what the user tower reads of each, of the user's first positive row in the split
    items: positions in the catalogue of what each held out; counts: [Q] int64 how many, those in no catalogue included
    known: positions that its list leaves out
    """

    users: Block
    items: Ragged
    counts: np.ndarray
    known: Ragged

    def __len__(self) -> int:
        return len(self.counts)


def read_held_out(
    blueprint: Blueprint, catalogue: Catalogue, paths: Paths, known: Sequence[Paths], layout: Layout
) -> HeldOut:
    """Reads the pairs of a split, and those of `known` splits of the same users, which count in neither way.

    layout: of what the user tower reads. Raises UserError as loaders do.
    """
    pairs = list(_positive_pairs(blueprint, catalogue, paths))
    of_rows = pa.chunked_array([pair.users for pair in pairs]).combine_chunks()
    ids = pa.chunked_array([pair.items for pair in pairs]).combine_chunks()
    users = pc.unique(of_rows)
    owner, items = _places(of_rows, users), len(catalogue)
    positions = catalogue.positions(ids)
    listed = positions >= 0
    excluded = _distinct(np.concatenate([np.empty(0, np.int64), *_known(blueprint, catalogue, known, users)]))
    held_out = _distinct(owner[listed] * items + positions[listed])
    held_out = held_out[~np.isin(held_out, excluded, assume_unique=True, kind="sort")]
    kept = Ragged.of(held_out, len(users), items)
    places = np.concatenate([pair.places for pair in pairs])[np.unique(owner, return_index=True)[1]]
    return HeldOut(
        _rows_at(blueprint, paths, places, layout),
        kept,
        np.diff(kept.offsets) + _unlisted(owner[~listed], ids.filter(pa.array(~listed)), len(users)),
        Ragged.of(excluded, len(users), items),
    )


class _Pairs(NamedTuple):
    """These are the users and items of n positive rows, and the rows' places in their data set."""

    users: pa.Array
    items: pa.Array
    places: np.ndarray


def _positive_pairs(blueprint: Blueprint, catalogue: Catalogue, paths: Paths) -> Iterator[_Pairs]:
    """Yields positive rows, many at a time, without those that lack a user or an item."""
    config, schema = blueprint.config, blueprint.schema
    columns = (schema[user_feature(config, schema)].columns[0], catalogue.column)
    for found, file in blueprint.data_set(paths).index.schemas:
        for column in set(columns).intersection(found.names):  # who reads them misses the others
            check_ids_alike(found.field(column).type, column_type(blueprint, column), file, column)
    waiting: list[_Pairs] = []
    rows = place = 0
    for table, positive in positives(blueprint.data_set(paths), schema, columns, config.data.schema_folder):
        users, items = (comparable(table.column(column)) for column in columns)
        chosen = np.flatnonzero(positive & _valid(users) & _valid(items))
        waiting.append(_Pairs(users.take(pa.array(chosen)), items.take(pa.array(chosen)), place + chosen))
        place += len(table)
        rows += len(chosen)
        if rows >= JOINED_ROWS:
            yield _joined(waiting)
            waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[_Pairs]) -> _Pairs:
    users, items = (pa.concat_arrays([part[side] for part in parts]) for side in range(2))
    return _Pairs(users, items, np.concatenate([part.places for part in parts]))


def _known(
    blueprint: Blueprint, catalogue: Catalogue, splits: Sequence[Paths], users: pa.Array
) -> Iterator[np.ndarray]:
    """Yields the pairs of splits whose user is among these, as keys user x items + position."""
    for paths in splits:
        for pairs in _positive_pairs(blueprint, catalogue, paths):
            owner = _places(pairs.users, users)
            of_users = owner >= 0
            positions = catalogue.positions(pairs.items.filter(pa.array(of_users)))
            yield (owner[of_users] * len(catalogue) + positions)[positions >= 0]


def _unlisted(owner: np.ndarray, ids: pa.Array, users: int) -> np.ndarray:
    """Returns [users] int64: how many items each has that are in no catalogue."""
    codes = ids.dictionary_encode().indices.to_numpy()
    keys = _distinct(owner * max(len(ids), 1) + codes)
    return np.bincount(keys // max(len(ids), 1), minlength=users)


def _rows_at(blueprint: Blueprint, paths: Paths, places: np.ndarray, layout: Layout) -> Block:
    """Reads rows by their places in a data set, in the order of `places`."""
    ordered = np.sort(places)
    parts: list[Block] = []
    for chunk in chunks_of(blueprint.data_set(paths).index, layout):
        first, last = np.searchsorted(ordered, [chunk.place, chunk.place + chunk.batch.num_rows])
        if first < last or not (len(ordered) or parts):  # of no rows too there is a block
            parts.append(layout.block(chunk).take(ordered[first:last] - chunk.place))
    return Block.join(parts).take(np.argsort(np.argsort(places)))


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Returns keys sorted, each once; for millions of them faster than `np.unique`, which hashes."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _places(values: pa.Array, among: pa.Array) -> np.ndarray:
    """Returns [n] int64: the place of each value among others, -1 where it is none of them."""
    return pc.index_in(values, value_set=among).fill_null(-1).to_numpy().astype(np.int64)


def _valid(values: pa.Array) -> np.ndarray:
    return values.is_valid().to_numpy(zero_copy_only=False)
