"""A rank's own ids are brought into the form in which they are sent."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.exchange.id_layout import IdLayout, Wanted
from shardrec.sharding.exchange.slots import Span, runs


class Ragged(NamedTuple):
    """Ragged ids are those of one feature: lengths [B], values [T], weights [T] or None."""

    lengths: Tensor
    values: Tensor
    weights: Tensor | None


class _Places:
    """Where the keys of a KeyedJaggedTensor have their values, for as long as keys and counts stay."""

    def __init__(self, keys: Sequence[str], counts: list[int], rows: int, narrow: Sequence[str]) -> None:
        self.keys, self.counts, self.rows = keys, counts, rows
        self.place = {key: place for place, key in enumerate(keys)}
        self.starts = [0, *accumulate(counts)]
        at = [self.place[feature] for feature in narrow]
        for feature, place in zip(narrow, at, strict=True):
            if counts[place] > rows:
                raise ValueError(f"feature {feature!r} has {counts[place]} ids in {rows} rows, but at most one a row")
        self.full = all(counts[place] == rows for place in at)
        self.narrow = runs(at)
        self.shape = (len(at), rows)
        self.narrow_values = [(self.starts[first], self.starts[last]) for first, last in self.narrow]

    def are_of(self, keys: Sequence[str], counts: list[int], rows: int) -> bool:
        return self.rows == rows and self.counts == counts and self.keys == keys


class OwnIds:
    """Own ids are a batch's, in the form that the layout says.

    narrow: [narrow features, B], -1 for none. full: whether there is none without. counts: how many ids of a wanted
    item each rank gets. order: of items that are dealt, where each id went among those of its feature.
    """

    def __init__(self, rows: int, narrow: Tensor, full: bool) -> None:
        self.rows, self.narrow, self.full = rows, narrow, full
        self.counts: dict[Wanted, list[int]] = {}
        self.order: dict[Wanted, Tensor] = {}
        self._parts: dict[Wanted, list[Ragged]] = {}

    def part(self, item: Wanted, rank: int) -> Ragged:
        """Returns what a rank gets of an item."""
        parts = self._parts[item]
        return parts[rank if item.block else 0]

    def add(self, item: Wanted, parts: list[Ragged], ranks: int, order: Tensor | None = None) -> None:
        """Adds an item: its part for each rank, or the one for all."""
        self._parts[item] = parts
        counts = [part.values.numel() for part in parts]
        self.counts[item] = counts if item.block else counts * ranks
        if order is not None:
            self.order[item] = order


class IdPacker:
    """A packer takes batches' ids apart; what depends on their shapes alone is kept while these stay."""

    def __init__(self, layout: IdLayout) -> None:
        self._layout = layout
        self._places: dict[str, _Places] = {}

    def own(self, batch: Batch) -> OwnIds:
        """Returns a batch's ids as they are sent."""
        layout, ids = self._layout, batch.ids
        places = self._placed("ids", ids, layout.narrow)
        own = OwnIds(ids.stride(), _narrow(ids, places), places.full)
        for item in dict.fromkeys(item for of_rank in layout.ragged for item in of_rank):
            found = self._ragged(batch, item.feature)
            if item.block:
                parts, order = _dealt(found, item.block, layout.ranks)
                own.add(item, parts, layout.ranks, order)
            else:
                own.add(item, [found], layout.ranks)
        for item in dict.fromkeys(item for of_rank in layout.counted for item in of_rank):
            if item not in own.counts:
                own.counts[item] = [places.counts[places.place[item.feature]]] * layout.ranks
        return own

    def _placed(self, name: str, ids: KeyedJaggedTensor, narrow: Sequence[str] = ()) -> _Places:
        keys, counts, rows = ids.keys(), ids.length_per_key(), ids.stride()
        found = self._places.get(name)
        if found is None or not found.are_of(keys, counts, rows):
            found = self._places[name] = _Places(keys, counts, rows, narrow)
        return found

    def _ragged(self, batch: Batch, feature: str) -> Ragged:
        weighted = feature in self._layout.weighted
        ids = batch.weighted_ids if weighted else batch.ids
        assert ids is not None, f"the batch has no weighted ids, but {feature!r} has weights"
        places = self._placed("weighted_ids", ids) if weighted else self._places["ids"]
        place, rows = places.place[feature], places.rows
        span = slice(places.starts[place], places.starts[place + 1])
        lengths = ids.lengths()[place * rows : (place + 1) * rows].long()
        return Ragged(lengths, ids.values()[span].long(), ids.weights()[span].float() if weighted else None)


def _narrow(ids: KeyedJaggedTensor, places: _Places) -> Tensor:
    """Returns the narrow features' ids [features, B]: a view, where all rows have one and keys are in order."""
    values = _joined(ids.values(), places.narrow_values)
    if places.full:
        return values.view(places.shape).long()
    rows = places.rows
    there = (
        _joined(ids.lengths(), [(first * rows, last * rows) for first, last in places.narrow]).view(places.shape) > 0
    )
    return torch.full_like(there, -1, dtype=torch.int64).masked_scatter_(there, values.long())


def _joined(values: Tensor, spans: Sequence[Span]) -> Tensor:
    if len(spans) == 1:
        return values[spans[0][0] : spans[0][1]]
    return torch.cat([values[start:stop] for start, stop in spans]) if spans else values[:0]


def _dealt(ids: Ragged, block: int, ranks: int) -> tuple[list[Ragged], Tensor]:
    """Deals a feature's ids to the ranks that hold their blocks of rows, as rows of these, and says where each went."""
    lengths, values, weights, _, order = torch.ops.fbgemm.block_bucketize_sparse_features(
        ids.lengths,
        ids.values,
        False,
        True,
        torch.tensor([block], dtype=torch.int64, device=ids.values.device),
        ranks,
        ids.weights,
    )
    of_ranks = lengths.view(ranks, -1)
    counts = of_ranks.sum(1).tolist()
    split = [None] * ranks if weights is None else weights.split(counts)
    return [Ragged(*part) for part in zip(of_ranks, values.split(counts), split, strict=True)], order.long()
