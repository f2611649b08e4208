"""A part of a lookup is one collection, with the ids that it reads in the form that it takes."""

from typing import Any

import torch
from torch import nn
from torchrec.distributed.types import ShardedModule
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.lookup.groups import Group
from shardrec.sharding.tables.module_names import feature_key


class Part(nn.Module):
    """A part of a lookup is one collection and the ids that it reads."""

    def __init__(self, group: Group, collection: nn.Module, weighted: frozenset[str]) -> None:
        super().__init__()
        self.group = group
        self.collection = collection
        self._escapes = any(feature_key(f) != f for features in group.features.values() for f in features)
        with_weights = {f in weighted for features in group.features.values() for f in features}
        self._source = "both" if len(with_weights) > 1 else "weighted_ids" if True in with_weights else "ids"

    def start(self, batch: Batch) -> Any:
        """Sends the ids of a batch that the collection reads to the ranks that hold their rows; `forward` takes them.

        They depend on the batch alone. All ranks call it alike.
        """
        ids = self._ids(batch)
        ids = _with_keys(ids) if self._escapes else ids
        if not isinstance(self.collection, ShardedModule):
            return ids
        context = self.collection.create_context()
        return context, self.collection.input_dist(context, ids).wait()  # for splits: the ids themselves are on the way

    def forward(self, started: Any) -> Any:
        """Returns the collection's output for what was started."""
        if not isinstance(self.collection, ShardedModule):
            return self.collection(started)
        context, ids = started
        return self.collection.compute_and_output_dist(context, ids.wait())

    def _ids(self, batch: Batch) -> KeyedJaggedTensor:
        if self._source == "ids":
            return batch.ids
        assert batch.weighted_ids is not None, f"the batch has no weighted ids for {self.group}"
        weights = self.group.kind == "weighted_bags"
        if self._source == "both":
            return _joined(batch.ids, batch.weighted_ids, weights)
        return batch.weighted_ids if weights else _unweighted(batch.weighted_ids)


def _with_keys(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Returns the same ids by the keys that stand for their features' names inside of TorchRec."""
    return KeyedJaggedTensor(
        keys=[feature_key(feature) for feature in ids.keys()],
        values=ids.values(),
        weights=ids.weights_or_none(),
        lengths=ids.lengths(),
        stride=ids.stride(),
        length_per_key=ids.length_per_key_or_none(),
    )


def _unweighted(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=ids.keys(),
        values=ids.values(),
        lengths=ids.lengths(),
        stride=ids.stride(),
        length_per_key=ids.length_per_key_or_none(),
    )


def _joined(ids: KeyedJaggedTensor, weighted: KeyedJaggedTensor, weights: bool) -> KeyedJaggedTensor:
    """Returns all features in one KeyedJaggedTensor; ids without weights weigh 1."""
    ones = weighted.weights().new_ones(ids.values().numel())
    counts = [kjt.length_per_key_or_none() for kjt in (ids, weighted)]
    return KeyedJaggedTensor(
        keys=[*ids.keys(), *weighted.keys()],
        values=torch.cat([ids.values(), weighted.values()]),
        lengths=torch.cat([ids.lengths(), weighted.lengths()]),
        weights=torch.cat([ones, weighted.weights()]) if weights else None,
        stride=ids.stride(),
        length_per_key=None if None in counts else [n for of_one in counts for n in of_one or ()],
    )
