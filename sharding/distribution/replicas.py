"""Of data-parallel tables every rank has all rows, and gradients are summed over the ranks once a step.

They need no exchange of ids or vectors. The sum runs over whole tables, so that its cost is the tables' size, not the
batch's.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.local_tables import LocalTables
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables


class Replicas:
    """All data-parallel tables of a lookup, whose gradients are deferred, have a common step."""

    def __init__(self, modules: Sequence[LocalTables], group: dist.ProcessGroup | None) -> None:
        self._live: list[tuple[RowTables, int, EmbeddingTable]] = [
            (kernel, i, table)
            for module in modules
            for kernel, i, table in module.live()
            if isinstance(kernel, RowTables)
        ]
        self.kernels = list(dict.fromkeys(kernel for kernel, *_ in self._live))
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
