"""Of data-parallel tables every rank has all rows, and gradients are summed over the ranks once a step.

They look like TorchRec's collections to the lookup, but need no exchange of ids or vectors. The sum runs over whole
tables, so that its cost is the tables' size, not the batch's.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.lookup.lookup import Group
from shardrec.sharding.tables.live import DTYPES, LiveTable, TableShard, is_rounded, physical_dim
from shardrec.sharding.tables.module_names import feature_key, quoted
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.choose import row_update
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables


def _kernel(
    tables: Sequence[EmbeddingTable], features: Sequence[int], device: torch.device, seed: int, *, compiled: bool
) -> RowTables:
    shapes = [(t.num_embeddings, physical_dim(t)) for t in tables]
    updates = [row_update(t) for t in tables]
    dtypes = [DTYPES[t.dtype] for t in tables]
    roundings = [ShardRounding(seed, quoted(t.name)) if is_rounded(t) else None for t in tables]
    return RowTables(
        shapes, features, updates, dtypes=dtypes, device=device, roundings=roundings, deferred=True, compiled=compiled
    )


class ReplicatedBags(nn.Module):
    """Replicated tables are summed by bag: KeyedJaggedTensor -> KeyedTensor, as of an EmbeddingBagCollection."""

    def __init__(self, group: Group, device: torch.device, seed: int, *, compiled: bool = True) -> None:
        super().__init__()
        self.group = group
        self._features = [feature_key(f) for features in group.features.values() for f in features]
        self._keys = [group.key(f, t) for t, features in group.features.items() for f in features]
        self._dims = [physical_dim(t) for t, features in group.features.items() for _ in features]
        tables = [i for i, features in enumerate(group.features.values()) for _ in features]
        self.kernels = [_kernel(group.tables, tables, device, seed, compiled=compiled)]

    def forward(self, ids: KeyedJaggedTensor) -> KeyedTensor:
        """Returns the bags' sums [B, sum of D] of all features, keyed as an EmbeddingBagCollection's."""
        keys = ids.keys()
        if keys != self._features:
            places = {key: place for place, key in enumerate(keys)}
            ids = ids.permute([places[f] for f in self._features])
        weights = ids.weights_or_none() if self.group.kind == "weighted_bags" else None
        return KeyedTensor(self._keys, self._dims, self.kernels[0](ids.values(), ids.offsets(), weights))

    def live(self) -> list[tuple[RowTables, int, EmbeddingTable]]:
        """Returns (kernel, index in it, table) of every table."""
        return [(self.kernels[0], i, table) for i, table in enumerate(self.group.tables)]


class ReplicatedSequences(nn.Module):
    """Replicated tables are read as sequences: KeyedJaggedTensor -> {key: JaggedTensor}, as of an EmbeddingCollection.

    Their rows are looked up as bags of one id.
    """

    def __init__(self, group: Group, device: torch.device, seed: int, *, compiled: bool = True) -> None:
        super().__init__()
        self.group = group
        self.kernels = [_kernel([table], [0], device, seed, compiled=compiled) for table in group.tables]

    def forward(self, ids: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Returns the rows [ids, D] of each feature, by key."""
        sequences = {}
        for kernel, (table, features) in zip(self.kernels, self.group.features.items(), strict=True):
            read = [ids[feature_key(f)] for f in features]
            values = torch.cat([r.values() for r in read])
            vectors = kernel(values, torch.arange(values.numel() + 1, device=values.device))
            parts = vectors.split([r.values().numel() for r in read]) if len(read) > 1 else (vectors,)  # spares a copy
            for feature, r, v in zip(features, read, parts, strict=True):
                sequences[self.group.key(feature, table)] = JaggedTensor(values=v, lengths=r.lengths())
        return sequences

    def live(self) -> list[tuple[RowTables, int, EmbeddingTable]]:
        """Returns (kernel, index in it, table) of every table."""
        return [(kernel, 0, table) for kernel, table in zip(self.kernels, self.group.tables, strict=True)]


class Replicas:
    """All data-parallel tables of a lookup have a common step."""

    def __init__(
        self, modules: Sequence[ReplicatedBags | ReplicatedSequences], group: dist.ProcessGroup | None
    ) -> None:
        self.kernels = [kernel for module in modules for kernel in module.kernels]
        self._live = [entry for module in modules for entry in module.live()]
        self._group = group
        self._shapes = [(kernel.weights[i].shape[0], kernel.weights[i].shape[1] + 1) for kernel, i, _ in self._live]
        self._sum: Tensor | None = None

    def tables(self) -> dict[str, LiveTable]:
        """Returns the live tables by name."""
        tables = {}
        for kernel, i, table in self._live:
            shard = TableShard(0, 0, {"weight": kernel.weights[i], **kernel.states[i]})
            tables[table.name] = LiveTable(table, (shard,), replicated=True)
        return tables

    def begin(self, context: UpdateContext) -> None:
        """Starts a step; gradients that no `step` has used are forgotten."""
        for kernel in self.kernels:
            kernel.begin(context)

    def step(self) -> None:
        """Averages the ranks' gradients, as TorchRec does for sharded tables, and updates all replicas alike."""
        if not self._live:
            return
        sizes = [row_count * columns for row_count, columns in self._shapes]
        if self._sum is None:
            self._sum = torch.empty(sum(sizes), device=self._live[0][0].weights[0].device)
        self._sum.zero_()
        buffers = [b.view(s) for b, s in zip(self._sum.split(sizes), self._shapes, strict=True)]
        for (kernel, i, _), buffer in zip(self._live, buffers, strict=True):
            kernel.add_gradients(i, buffer)
        dist.all_reduce(self._sum, group=self._group)
        self._sum /= dist.get_world_size(self._group)
        for (kernel, i, _), buffer in zip(self._live, buffers, strict=True):
            kernel.update(i, buffer)
        for kernel in self.kernels:
            kernel.forget_gradients()
