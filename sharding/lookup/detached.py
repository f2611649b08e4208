"""Detached ids are looked up in a pass of their own, without gradient, under the keys of learned features.

The next state's user stands under `user`, the next candidates under `news`: the same collections are asked once more,
by other ids. So they keep their keys, columns and exchanges as they are without detached inputs, and backward, with
what it updates, sees nothing of the second pass. A feature for which there is no such key has one of its own, which is
empty in the pass that is learned from.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import Input
from shardrec.models.table_reads import table_reads


def detached_inputs(inputs: Mapping[str, Input], detached: bool) -> dict[str, Input]:
    """Returns the inputs that are detached, or those that are not."""
    return {name: source for name, source in inputs.items() if getattr(source, "detached", False) == detached}


def learned_features(inputs: Mapping[str, Input]) -> frozenset[str]:
    """Returns the sparse features that any input learns from."""
    return frozenset(feature for feature, _ in table_reads(detached_inputs(inputs, False)))


def stand_ins(inputs: Mapping[str, Input], weighted: Collection[str]) -> dict[str, str]:
    """Maps each feature of the detached inputs to the key that its ids stand under in their pass.

    That is its own, where it has one; else one that reads the same tables and under which no other stands, of the
    features with weights for one that has them, and the other way round; else its own.
    """
    learned, detached = (_tables_of(detached_inputs(inputs, side)) for side in (False, True))
    keys = {feature: feature for feature in detached if feature in learned}
    for feature, tables in detached.items():
        if feature in keys:
            continue
        taken = set(keys.values())
        keys[feature] = next(
            (
                key
                for key, its_tables in learned.items()
                if key not in taken and tables <= its_tables and (key in weighted) == (feature in weighted)
            ),
            feature,
        )
    return keys


def _tables_of(inputs: Mapping[str, Input]) -> dict[str, set[str]]:
    """Returns the names of the tables that each feature is looked up in."""
    tables: dict[str, set[str]] = {}
    for feature, table in table_reads(inputs):
        tables.setdefault(feature, set()).add(table.name)
    return tables


class Passes:
    """The passes of a lookup are batches that the collections are asked for, each with all keys of the collections.

    learned: the features whose ids are learned from. keys: of detached features, as `stand_ins` says.
    """

    def __init__(self, learned: Collection[str], keys: Mapping[str, str]) -> None:
        self._learned = {feature: feature for feature in learned}
        self._detached = {key: feature for feature, key in keys.items()}
        self._keys = frozenset(self._learned) | frozenset(self._detached)

    def learned(self, batch: Batch) -> Batch:
        """Returns the batch with the ids that are learned from alone."""
        return self._placed(batch, self._learned)

    def detached(self, batch: Batch) -> Batch:
        """Returns the batch with the detached ids, each feature's under its key."""
        return self._placed(batch, self._detached)

    def _placed(self, batch: Batch, sources: Mapping[str, str]) -> Batch:
        weighted = batch.weighted_ids
        return replace(
            batch,
            ids=self._of(batch.ids, sources),
            weighted_ids=None if weighted is None else self._of(weighted, sources),
        )

    def _of(self, ids: KeyedJaggedTensor, sources: Mapping[str, str]) -> KeyedJaggedTensor:
        """Returns the ids of each key's source; a key without one has none in any row."""
        names = ids.keys()
        keys = [key for key in names if key in self._keys]
        places = {name: place for place, name in enumerate(names)}
        taken = [places[sources[key]] if key in sources else None for key in keys]
        counts = ids.length_per_key()
        starts = [0, *accumulate(counts)]
        values, weights, rows = ids.values(), ids.weights_or_none(), ids.stride()
        spans: list[tuple[int, int] | None] = [(starts[i], starts[i + 1]) for i in taken if i is not None]
        lengths = [(i * rows, (i + 1) * rows) if i is not None else None for i in taken]
        return KeyedJaggedTensor(
            keys=keys,
            values=_pieces(values, spans),
            weights=None if weights is None else _pieces(weights, spans),
            lengths=_pieces(ids.lengths(), lengths, rows),
            stride=rows,
            length_per_key=[0 if i is None else counts[i] for i in taken],
        )


def _pieces(values: torch.Tensor, spans: Sequence[tuple[int, int] | None], empty: int = 0) -> torch.Tensor:
    """Returns spans of a vector, one after the other: a view, where they lie so. None: `empty` zeros."""
    there = [span for span in spans if span is not None]
    if len(there) == len(spans) and _follow(there):
        return values[there[0][0] : there[-1][1]] if there else values[:0]
    zeros = values.new_zeros(empty)
    return torch.cat([zeros if span is None else values[span[0] : span[1]] for span in spans])


def _follow(spans: Iterable[tuple[int, int]]) -> bool:
    """Says whether each span begins where the one before it ends."""
    spans = list(spans)
    return all(before[1] == after[0] for before, after in pairwise(spans))
