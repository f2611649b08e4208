"""Tables whose rows a rank holds whole are looked up without an exchange.

So are all tables of a run of one process on a CPU, and the replicas of data-parallel ones. They look like TorchRec's
collections to the lookup.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.frozen_rows import FrozenRows
from shardrec.sharding.lookup.groups import Group
from shardrec.sharding.tables.live import DTYPES, is_rounded, physical_dim
from shardrec.sharding.tables.module_names import feature_key, module_name, quoted
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.choose import row_update
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables


class LocalTables(nn.Module):
    """Local tables are a group's, all of them trained or all frozen.

    deferred: gradients are only kept, as `RowTables` says. compiled: whether our kernel may be.
    """

    kernels: list[RowTables | FrozenRows]

    def __init__(
        self, group: Group, device: torch.device, seed: int, *, deferred: bool = False, compiled: bool = True
    ) -> None:
        super().__init__()
        self.group = group
        self._device, self._seed, self._deferred, self._compiled = device, seed, deferred, compiled

    @property
    def form(self) -> str | None:
        """Returns what updates rows, compiled or torch; None where they are only read."""
        return max((f for k in self.kernels if isinstance(k, RowTables) and (f := k.form)), default=None)

    def begin(self, context: UpdateContext) -> None:
        """Starts a step; gradients that are still kept are forgotten."""
        for kernel in self.kernels:
            if isinstance(kernel, RowTables):
                kernel.begin(context)

    def live(self) -> list[tuple[RowTables | FrozenRows, int, EmbeddingTable]]:
        """Returns (kernel, index in it, table) of every table."""
        raise NotImplementedError

    def shards(self) -> Iterator[tuple[str, int, int, Mapping[str, Tensor]]]:
        """Yields (TorchRec's name, row, column, live tensors) of every table, as kernels under TorchRec do."""
        for kernel, i, table in self.live():
            state = kernel.states[i] if isinstance(kernel, RowTables) else {}
            yield module_name(table.name), 0, 0, {"weight": kernel.weights[i], **state}

    def _kernel(self, tables: Sequence[EmbeddingTable], features: Sequence[int]) -> RowTables | FrozenRows:
        shapes = [(t.num_embeddings, physical_dim(t)) for t in tables]
        if all(t.frozen for t in tables):
            return FrozenRows(shapes, features, dtypes=[t.dtype for t in tables], device=self._device)
        return RowTables(
            shapes,
            features,
            [row_update(t) for t in tables],
            dtypes=[DTYPES[t.dtype] for t in tables],
            device=self._device,
            roundings=[ShardRounding(self._seed, quoted(t.name)) if is_rounded(t) else None for t in tables],
            deferred=self._deferred,
            compiled=self._compiled,
        )


class LocalBags(LocalTables):
    """Local tables are summed by bag: KeyedJaggedTensor -> KeyedTensor, as of an EmbeddingBagCollection.

    narrow: features that never have more than one id in a row.
    """

    def __init__(
        self,
        group: Group,
        device: torch.device,
        seed: int,
        *,
        narrow: Collection[str] = (),
        deferred: bool = False,
        compiled: bool = True,
    ) -> None:
        super().__init__(group, device, seed, deferred=deferred, compiled=compiled)
        features = [f for features in group.features.values() for f in features]
        self._features, self._narrow = (
            [feature_key(f) for f in features],
            group.kind == "bags" and set(features) <= set(narrow),
        )
        self._places: tuple[list[str], Tensor] | None = None
        self._offsets = torch.zeros(0, dtype=torch.int64)
        self._keys = [group.key(f, t) for t, features in group.features.items() for f in features]
        self._dims = [physical_dim(t) for t, features in group.features.items() for _ in features]
        tables = [i for i, features in enumerate(group.features.values()) for _ in features]
        self.kernels = [self._kernel(group.tables, tables)]

    def forward(self, ids: KeyedJaggedTensor) -> KeyedTensor:
        """Returns the bags' sums [B, sum of D] of all features, keyed as an EmbeddingBagCollection's."""
        if self._narrow and (of_rows := self._one_each(ids)) is not None:
            return KeyedTensor(self._keys, self._dims, self.kernels[0](*of_rows))
        values, lengths, weights = _of_features(ids, self._features)
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
        weights = weights if self.group.kind == "weighted_bags" else None
        return KeyedTensor(self._keys, self._dims, self.kernels[0](values, offsets, weights))

    def _one_each(self, ids: KeyedJaggedTensor) -> tuple[Tensor, Tensor] | None:
        """Returns values and offsets, where every row has an id of every key, as the counts say; nobody waits."""
        counts, rows = ids.length_per_key_or_none(), ids.stride()
        if counts is None or any(count != rows for count in counts):
            return None
        keys = ids.keys()
        if self._places is None or self._places[0] != keys:
            places = [keys.index(feature) for feature in self._features]
            self._places = keys, torch.tensor(places, device=ids.values().device)
        values = ids.values().view(len(keys), rows)
        if self._features != keys:
            values = values.index_select(0, self._places[1])
        if len(self._offsets) != values.numel() + 1:
            self._offsets = torch.arange(values.numel() + 1, device=values.device)
        return values.reshape(-1), self._offsets

    def live(self) -> list[tuple[RowTables | FrozenRows, int, EmbeddingTable]]:
        return [(self.kernels[0], i, table) for i, table in enumerate(self.group.tables)]


class LocalSequences(LocalTables):
    """Local tables are read as sequences: KeyedJaggedTensor -> {key: JaggedTensor}, as of an EmbeddingCollection.

    Their rows are looked up as bags of one id.
    """

    def __init__(
        self, group: Group, device: torch.device, seed: int, *, deferred: bool = False, compiled: bool = True
    ) -> None:
        super().__init__(group, device, seed, deferred=deferred, compiled=compiled)
        self.kernels = [self._kernel([table], [0]) for table in group.tables]

    def forward(self, ids: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Returns the rows [ids, D] of each feature, by key."""
        sequences = {}
        for kernel, (table, features) in zip(self.kernels, self.group.features.items(), strict=True):
            read = [ids[feature_key(f)] for f in features]
            values = torch.cat([r.values() for r in read]) if len(read) > 1 else read[0].values()
            vectors = kernel(values, torch.arange(values.numel() + 1, device=values.device))
            parts = vectors.split([r.values().numel() for r in read]) if len(read) > 1 else (vectors,)  # spares a copy
            for feature, r, v in zip(features, read, parts, strict=True):
                sequences[self.group.key(feature, table)] = JaggedTensor(values=v, lengths=r.lengths())
        return sequences

    def live(self) -> list[tuple[RowTables | FrozenRows, int, EmbeddingTable]]:
        return [(kernel, 0, table) for kernel, table in zip(self.kernels, self.group.tables, strict=True)]


def local_tables(
    group: Group,
    device: torch.device,
    seed: int,
    *,
    narrow: Collection[str] = (),
    deferred: bool = False,
    compiled: bool = True,
) -> LocalBags | LocalSequences:
    """Returns a group's local tables, of the kind that the group has. narrow: as in `LocalBags`."""
    if group.kind == "sequences":
        return LocalSequences(group, device, seed, deferred=deferred, compiled=compiled)
    return LocalBags(group, device, seed, narrow=narrow, deferred=deferred, compiled=compiled)


def _of_features(ids: KeyedJaggedTensor, features: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns values, lengths and weights of some keys in their order: views, where they follow each other so."""
    keys = ids.keys()
    places = {key: place for place, key in enumerate(keys)}
    taken = [places[feature] for feature in features]
    counts = ids.length_per_key_or_none()
    if taken == list(range(len(keys))):
        return ids.values(), ids.lengths(), ids.weights_or_none()
    if counts is None or taken != list(range(taken[0], taken[0] + len(taken))):
        ids = ids.permute(taken)
        return ids.values(), ids.lengths(), ids.weights_or_none()
    first, end = taken[0], taken[-1] + 1
    starts, rows, weights = [0, *accumulate(counts)], ids.stride(), ids.weights_or_none()
    span = slice(starts[first], starts[end])
    return ids.values()[span], ids.lengths()[first * rows : end * rows], None if weights is None else weights[span]
