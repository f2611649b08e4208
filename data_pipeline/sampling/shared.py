"""Shared negatives are items that all rows of a global batch are told from, drawn once for it.

A draw is the XXH64 of (seed, epoch, step, which of the draws), so that it does not depend on rows, lanes or workers and
needs no generator that a resumed run would have to restore. Draws are with replacement; a batch that shares as many
items as there are, each as often, has each once.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from shardrec.data_pipeline.batch import Alternatives, Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_words
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.index import DataSet, Fingerprint, fingerprints
from shardrec.data_pipeline.reading.keys import with_rows
from shardrec.data_pipeline.sampling.catalogue import FirstRows, items_of
from shardrec.data_pipeline.sampling.negatives import only, positives
from shardrec.data_pipeline.sampling.settings import NegativeSampling

_PURPOSE = int.from_bytes(b"shared", "little")  # of these random numbers, among all that the seed has


@dataclass(frozen=True, eq=False)
class SharedNegatives:
    """These are all that drawing needs: read once, by one process, and given to the others.

    catalogue: the items that may be drawn, a row each, as `layout` reads them, by ascending item
    counts: [C] int64, the training rows of each item
    item_features: the features that a drawn item brings along
    fingerprints: of the files of items, if there are some, in the orders in which they may have been read
    """

    settings: NegativeSampling
    catalogue: Block
    counts: np.ndarray
    layout: Layout
    item_features: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...] = ()

    @classmethod
    def read(
        cls, settings: NegativeSampling, train: DataSet, schema: Schema, folder: str, *, skips_bad: bool = False
    ) -> "SharedNegatives":
        """Reads the items of all training rows, and the catalogue.

        schema: of the features that the model reads, and of the item; folder: of its vocabularies
        skips_bad: training rows that cannot be read are left out

        Raises UserError for what cannot be drawn, for a training row that is not a positive, and for an item that the
        file of items has twice.
        """
        names = settings.item_features(schema)
        read = only(schema, names if settings.items is None else names[:1])
        layout = Layout(read.model_copy(update={"labels": schema.labels[:1]}), folder)
        item, first_rows = layout.id_row(settings.item), FirstRows(layout.id_row(settings.item))
        prints: tuple[Fingerprint, ...] = ()
        counts = np.zeros(schema[settings.item].num_embeddings, np.int64)
        for block in positives(train.index, layout, skips_bad=skips_bad):
            counts += np.bincount(block.ids[item], minlength=len(counts))
            if settings.items is None:
                first_rows.add(block)
        if settings.items is None:
            catalogue = first_rows.block()
        else:
            layout = Layout(only(schema, names), folder)
            catalogue = items_of(DataSet.open(settings.items).index, layout, settings.item)
            prints = fingerprints(settings.items)
        counts = counts[catalogue.ids[layout.id_row(settings.item)]]
        if settings.distribution == "popularity" and not counts.any():
            raise UserError("data.negatives: no item of data.negatives.items is in a training row; draw uniformly")
        return cls(settings, catalogue, counts, layout, names, prints)

    @property
    def items(self) -> np.ndarray:
        """Returns [C] int64, ascending: the items that may be drawn."""
        return self.catalogue.ids[self.layout.id_row(self.settings.item)].astype(np.int64)

    @property
    def holds(self) -> str:
        """Says what the memory is for."""
        return f"{len(self.counts)} items"

    @property
    def nbytes(self) -> int:
        """Returns the memory of the catalogue, twice: as it is read and as batches have it."""
        return 2 * self.catalogue.nbytes + self.counts.nbytes


class SharedSampler:
    """A shared sampler draws the items of a loader's batches and says how often each item is expected among them."""

    def __init__(
        self,
        negatives: SharedNegatives,
        layout: Layout,
        drawn: Layout,
        *,
        seed: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        fixed: bool = False,
    ) -> None:
        """Draws for blocks of this layout; `drawn` is the same one without features that no item brings along.

        fixed: for evaluation: all batches share the same items, whole on every rank
        """
        settings = negatives.settings
        self._negatives, self._seed, self._fixed = negatives, seed, fixed
        self._part, self._parts = (0, 1) if fixed else (rank, world_size)
        self._layout = drawn
        self._item = layout.id_row(settings.item)
        self._items = negatives.items
        self._catalogue = drawn.only_features(negatives.item_features, negatives.layout, negatives.catalogue)
        self._in_batch = settings.in_batch and not fixed
        popular = settings.distribution == "popularity"
        self._draws = settings.shared or 0
        if fixed and settings.in_batch:  # the other rows of a batch are drawn by popularity, as it were
            popular, self._draws = True, self._draws + global_batch_size
        if not popular:
            self._draws = min(self._draws, len(self._items))
        self._bounds = negatives.counts.cumsum() if popular else None
        self._log_expected = _log_expected(negatives.counts, self._draws, popular, global_batch_size * self._in_batch)

    @property
    def rows(self) -> int:
        """Returns how many rows of a rank's batch are of drawn items."""
        return -(-self._draws // self._parts)

    def state(self) -> dict[str, Any]:
        """Returns what decides the draws beside the order and its seed, for a checkpoint."""
        prints = self._negatives.fingerprints
        return self._negatives.settings.state() | {"items": prints[0].value if prints else None}

    def matches(self, saved: object) -> bool:
        """Tells whether draws are those of the sampler that had this `state()`."""
        now = self.state()
        if isinstance(saved, dict) and any(f.matches(saved.get("items")) for f in self._negatives.fingerprints):
            saved = saved | {"items": now["items"]}
        return saved == now

    def draw(self, epoch: int, step: int) -> np.ndarray:
        """Returns [draws] int64 rows of the catalogue: what a global batch shares."""
        if self._fixed:
            epoch, step = -1, 0
        if self._bounds is None and self._draws == len(self._items):
            return np.arange(self._draws)
        words = [np.array([w % 2**64], np.uint64) for w in (_PURPOSE, self._seed, epoch, step)]
        stream = int(hash_words(words)[0])
        random = (hash_words([np.arange(self._draws, dtype=np.uint64)], stream) >> np.uint64(11)).view(np.int64)
        most = len(self._items) if self._bounds is None else self._bounds[-1]
        drawn = (random * (2.0**-53 * most)).astype(np.int64)
        return drawn if self._bounds is None else np.searchsorted(self._bounds, drawn, side="right")

    def with_shared(self, batch: Batch, parts: list[Block], epoch: int, step: int) -> Batch:
        """Returns a batch, of these parts and padding, with the items that its rows are told from."""
        items = np.full(batch.size, -1, np.int64)
        if parts:
            np.concatenate([part.ids[self._item] for part in parts], out=items[: sum(p.rows for p in parts)])
        mine = self.draw(epoch, step)[self._part * self.rows : (self._part + 1) * self.rows]
        shared, expected = np.full(self.rows, -1, np.int64), np.zeros(self.rows, np.float32)
        shared[: len(mine)], expected[: len(mine)] = self._items[mine], self._log_expected[mine]
        alternatives = Alternatives(
            torch.from_numpy(items),
            torch.from_numpy(self._log_expected[self._places(items)]),
            torch.from_numpy(shared),
            torch.from_numpy(expected),
            in_batch=self._in_batch,
            dealt=not self._fixed,
        )
        more = self._layout.collate([self._catalogue.take(mine)] if len(mine) else [], self.rows)
        return replace(_joined(batch, more) if self.rows else batch, alternatives=alternatives)

    def _places(self, items: np.ndarray) -> np.ndarray:
        """Returns the rows of the catalogue of items, of those that it lacks the last, which counts once (-1)."""
        places = np.minimum(np.searchsorted(self._items, items), len(self._items) - 1)
        return np.where(self._items[places] == items, places, -1)


def _log_expected(counts: np.ndarray, draws: int, popular: bool, rows: int) -> np.ndarray:
    """Returns [C + 1] float32: the log of how often each item is expected among what a batch's rows share.

    That is among `draws` of the catalogue and the items of `rows` training rows. The last is of items that the
    catalogue lacks, which count as one of a single training row.
    """
    counts = np.append(counts, 1)
    share = np.maximum(counts, 1) / max(counts[:-1].sum(), 1)
    return np.log(draws * (share if popular else 1 / (len(counts) - 1)) + rows * share).astype(np.float32)


def _joined(batch: Batch, more: Batch) -> Batch:
    """Returns the rows of a batch, and then those of drawn items, which count as padding."""
    size = more.size
    assert batch.weighted_ids is None or more.weighted_ids is not None
    return replace(
        batch,
        dense=torch.cat([batch.dense, more.dense]),
        ids=with_rows(batch.ids, more.ids),
        weighted_ids=None
        if batch.weighted_ids is None or more.weighted_ids is None
        else with_rows(batch.weighted_ids, more.weighted_ids),
        labels={name: torch.cat([label, label.new_zeros(size)]) for name, label in batch.labels.items()},
        weights=torch.cat([batch.weights, batch.weights.new_zeros(size)]),
        groups=None if batch.groups is None else torch.cat([batch.groups, batch.groups.new_zeros(size)]),
        rows=torch.cat([batch.rows, batch.rows.new_full((size,), -1)]),
        dense_sequences={
            name: torch.cat([numbers, more.dense_sequences[name]]) for name, numbers in batch.dense_sequences.items()
        },
        host_lengths={n: np.concatenate([lengths, more.host_lengths[n]]) for n, lengths in batch.host_lengths.items()},
    )
