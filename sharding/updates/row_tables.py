"""Our own kernel updates tables: gather, unique, gradients summed over the batch, then a `RowUpdate`.

On CPU it serves every table, compiled where there is a compiler; elsewhere what FBGEMM's fused kernels do not: weight
decay, further optimizers, unpadded rows, and data-parallel tables, whose gradients wait until all ranks' are summed.
Where nothing is compiled, everything is torch operations on whole batches, so that it runs on every device.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shardrec.sharding.kernels.library import RowKernel
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.compiled_rows import compiled_rows
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.rules import RowUpdate


class RowTables(nn.Module):
    """Several tables [rows, columns] with their state are looked up and updated together.

    feature_tables: for each feature of the input the index of its table. roundings: of each table; None, for one or for
    all, rounds to nearest. With `deferred`, backward only keeps the gradients, for `add_gradients`; otherwise it
    updates the rows at once. compiled: False keeps to torch operations where there is a compiled kernel.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        feature_tables: Sequence[int],
        updates: Sequence[RowUpdate],
        *,
        dtypes: Sequence[torch.dtype],
        device: torch.device,
        roundings: Sequence[ShardRounding | None] | None = None,
        deferred: bool = False,
        compiled: bool = True,
    ) -> None:
        super().__init__()
        self.feature_tables = tuple(feature_tables)
        self.updates = tuple(updates)
        self.weights = [torch.zeros(s, dtype=d, device=device) for s, d in zip(shapes, dtypes, strict=True)]
        self.states = [u.state(w) for u, w in zip(self.updates, self.weights, strict=True)]
        self.deferred = deferred
        self._shard_roundings = tuple(roundings or [None] * len(shapes))
        self._kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in shapes]
        self._hook = torch.zeros(1, device=device, requires_grad=True)  # makes autograd call backward
        self.compiled: RowKernel | None = None
        if compiled:
            self.compiled = compiled_rows(self.weights, self.states, self.updates, self.feature_tables)
        self.begin(UpdateContext(0))

    @property
    def form(self) -> str:
        """Returns what looks rows up and updates them: compiled, or torch's operations."""
        return "torch" if self.compiled is None else "compiled"

    def begin(self, context: UpdateContext) -> None:
        """Starts a step: the next updates are those of `context`, and gradients that are still kept are forgotten."""
        self._context = context
        self._roundings = [None if r is None else r.at_step(context.step) for r in self._shard_roundings]
        for t, rounding in enumerate(self._roundings):
            if self.compiled and rounding and self.weights[t].dtype == torch.float16:
                self.compiled.round_by(t, rounding.key, rounding.row, rounding.column)
        self.forget_gradients()

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sums rows by bag, B bags of F features: ids [T], offsets [F B + 1] -> [B, sum of the features' columns]."""
        return _Lookup.apply(self._hook, self, ids.long(), offsets.long(), weights)

    def pool(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sums rows by bag as `forward` does, without gradients."""
        if self.compiled:
            return self.compiled.pool(ids, offsets, weights)
        bags, first = self._bags_and_starts(offsets)
        pooled = []
        for f, t in enumerate(self.feature_tables):
            table, span = self.weights[t], slice(first[f], first[f + 1])
            rows, scale = ids[span], None if weights is None else weights[span]
            if table.dtype != torch.float32:  # torch's bags would round their sums to the table's precision
                table = table.index_select(0, rows).float()
                rows = torch.arange(rows.numel(), device=rows.device)
            starts = offsets[f * bags : (f + 1) * bags + 1] - first[f]
            pooled.append(_bags(rows, table, starts, scale))
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)

    @torch.no_grad()
    def receive(self, gradient: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
        """Sums a batch's gradients [B, all columns] by row, then updates the rows or keeps the sums."""
        if self._context.is_halted:
            return
        if self.compiled:
            self._receive_compiled(self.compiled, gradient, ids, offsets, weights)
            return
        bags, first = self._bags_and_starts(offsets)
        columns = gradient.split([self.weights[t].shape[1] for t in self.feature_tables], dim=1)
        lengths = offsets.diff()
        one_each = ids.numel() == lengths.numel() and bool((lengths == 1).all())
        for t in range(len(self.weights)):
            mine = [f for f, read_table in enumerate(self.feature_tables) if read_table == t]
            spans = [slice(first[f], first[f + 1]) for f in mine]
            if not sum(s.stop - s.start for s in spans):
                continue
            bag_gradient = torch.cat([columns[f] for f in mine]) if len(mine) > 1 else columns[mine[0]].contiguous()
            bag = None
            if not one_each:
                count = torch.cat([lengths[f * bags : (f + 1) * bags] for f in mine])
                bag = torch.arange(count.numel(), device=ids.device).repeat_interleave(count)
            scale = None if weights is None else torch.cat([weights[s] for s in spans])
            named = torch.cat([ids[s] for s in spans]) if len(spans) > 1 else ids[spans[0]]
            if len(self.weights[t]) < 1 << 31:
                named = named.int()  # sorted in half the time
            rows, summed = _sum_by_row(named, bag, bag_gradient, scale)
            if self.deferred:
                self._kept[t].append((rows, summed))
            else:
                self._change_rows(t, rows, summed)

    def _bags_and_starts(self, offsets: Tensor) -> tuple[int, list[int]]:
        """Returns how many bags each of F features has, and [F + 1], where each feature's ids begin."""
        features = len(self.feature_tables)
        bags = (offsets.numel() - 1) // features
        return bags, offsets[::bags].tolist() if bags else [0] * (features + 1)

    def _receive_compiled(
        self, kernel: RowKernel, gradient: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> None:
        if not self.deferred:
            factor, loss_weight = self._context.learning_rate_factor, self._context.loss_weight
            kernel.update(gradient, ids, offsets, weights, factor, loss_weight)
            return
        for t, kept in enumerate(self._kept):
            rows, summed = kernel.sum(t, gradient, ids, offsets, weights)
            if len(rows):
                kept.append((rows, summed))

    def add_gradients(self, table: int, into: Tensor) -> None:
        """Adds the kept gradients of a table to `into` [rows, columns + 1]; the last column counts who named a row."""
        for rows, summed in self._kept[table]:
            into[:, :-1].index_add_(0, rows, summed)
            into[:, -1].index_add_(0, rows, torch.ones(rows.numel(), device=rows.device))

    def update(self, table: int, gradients: Tensor) -> None:
        """Updates the rows of a table that any rank named, or every row, by gradients as in `add_gradients`."""
        if self._context.is_halted:
            return
        update, rows, summed = self.updates[table], None, gradients[:, :-1]
        if self.compiled:
            named = None if update.every_row else summed.shape[1]
            factor, loss_weight = self._context.learning_rate_factor, self._context.loss_weight
            self.compiled.update_all(table, gradients, named, factor, loss_weight)
            return
        if not update.every_row:
            rows = gradients[:, -1].nonzero().squeeze(1)
            summed = summed.index_select(0, rows)
        self._change_rows(table, rows, summed)

    def _change_rows(self, table: int, rows: Tensor | None, gradient: Tensor) -> None:
        weight, state, rounding = self.weights[table], self.states[table], self._roundings[table]
        factor, loss_weight = self._context.learning_rate_factor, self._context.loss_weight
        self.updates[table].apply(weight, state, rows, gradient, factor, loss_weight, rounding)

    def forget_gradients(self) -> None:
        """Drops the gradients that are kept."""
        for kept in self._kept:
            kept.clear()


def _bags(rows: Tensor, table: Tensor, starts: Tensor, scale: Tensor | None) -> Tensor:
    if not rows.numel():
        return table.new_zeros(starts.numel() - 1, table.shape[1])
    return F.embedding_bag(rows, table, starts, mode="sum", include_last_offset=True, per_sample_weights=scale)


def _sum_by_row(ids: Tensor, bag: Tensor | None, bag_gradient: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns distinct rows [n] and for each the sum of its bags' gradients [n, columns], scaled by the ids' weights.

    bag: which bag each id is in; None: each is one by itself.
    """
    ids, order = ids.sort()
    rows, count = torch.unique_consecutive(ids, return_counts=True)
    starts = F.pad(count.cumsum(0), (1, 0))
    scale = None if scale is None else scale[order]
    return rows.long(), _bags(order if bag is None else bag[order], bag_gradient, starts, scale)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hook: Tensor, tables: RowTables, ids: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> Tensor:
        ctx.tables = tables
        ctx.save_for_backward(ids, offsets, weights)
        return tables.pool(ids, offsets, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        ctx.tables.receive(gradient, *ctx.saved_tensors)
        return (None,) * 5
