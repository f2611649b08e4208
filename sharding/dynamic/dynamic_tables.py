"""Raw ids of all ranks' batches become rows of dynamic tables; rows that another id gets start afresh.

Each rank asks for the rows of its distinct ids where their buckets are kept; these ranks count and admit them, once for
the whole global batch, and answer. Which rows are fresh is told to all ranks, and whoever holds any of them, under
whatever placement, gives them fresh weights and the optimizer state of a first step before they are looked up. After
that, rows are numbers like any table's. One exchange serves all dynamic tables.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.dynamic_ids import DynamicIds
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.distinct import Distinct, distinct
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.kernels.fresh import are_renewed_here, renew
from shardrec.sharding.tables.first_values_by_id import draw_rows
from shardrec.sharding.tables.live import LiveTable, TableShard, starts_at_zero
from shardrec.sharding.updates.choose import row_update


def dynamic_features(readers: Iterable[tuple[EmbeddingTable, Sequence[str]]]) -> dict[DynamicIds, tuple[str, ...]]:
    """Returns the features of each id space with dynamic tables, from tables and the features that read them.

    Raises UserError where tables of one id space, or that one feature reads, differ in `dynamic`: an id has the same
    row in all of them.
    """
    of_feature: dict[str, EmbeddingTable] = {}
    of_space: dict[str, EmbeddingTable] = {}
    of_ids: dict[DynamicIds, dict[str, None]] = {}
    for table, features in readers:
        for feature in features:
            other = of_feature.setdefault(feature, table)
            if table.dynamic == other.dynamic and table.dynamic:
                other = of_space.setdefault(table.dynamic.name, table)
            if other.dynamic != table.dynamic:
                raise UserError(
                    f"tables: {other.name!r} and {table.name!r} hold the same ids (of feature {feature!r}), which have "
                    "the same row in both, but their `dynamic` differs; give both the same"
                )
            if table.dynamic:
                of_ids.setdefault(table.dynamic, {})[feature] = None
    return {ids: tuple(features) for ids, features in of_ids.items()}


class DynamicTables:
    """A lookup's id maps give ids their rows; each rank has its share of their buckets.

    features: of each id space. learned: of all features, those whose ids are counted and admitted (None: all); the
    others' find the rows that there are, and change nothing. tables: this rank's memory, by name. Without a process
    group there is one rank.
    """

    def __init__(
        self,
        features: Mapping[DynamicIds, Sequence[str]],
        tables: Iterable[LiveTable],
        *,
        learned: Collection[str] | None = None,
        seed: int,
        device: torch.device,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self._group, self._seed = process_group, seed
        self._rank, self._ranks = 0, 1
        if process_group is not None:
            self._rank, self._ranks = dist.get_rank(process_group), dist.get_world_size(process_group)
        self._features = {ids.name: tuple(names) for ids, names in features.items()}
        every = frozenset(name for names in features.values() for name in names)
        self._only_found = frozenset() if learned is None else every - frozenset(learned)
        self._spaces = {ids.name: ids for ids in features}
        self._tables: dict[str, list[LiveTable]] = {name: [] for name in self._spaces}
        for table in tables:
            if table.table.dynamic:
                self._tables[table.table.dynamic.name].append(table)
        self._step = 0
        self.maps: dict[str, IdMap] = {}
        self._cuts: dict[str, Tensor] = {}
        for name, ids in self._spaces.items():
            cuts = [ids.geometry.buckets * rank // self._ranks for rank in range(self._ranks + 1)]
            mine = range(cuts[self._rank], cuts[self._rank + 1])
            self.maps[name] = IdMap(ids.config, name=name, seed=seed, buckets=mine, device=device)
            self._cuts[name] = torch.tensor(cuts, device=device)

    def begin(self, step: int) -> None:
        """Starts a step: ids are counted and admitted as of `step` from now on."""
        self._step = step

    @torch.no_grad()
    def rows(self, batch: Batch, *, training: bool) -> Batch:
        """Returns the batch with rows in place of raw ids; an id without a row of its own has the default row.

        In training, ids that are learned from are counted and admitted, and fresh rows filled; then the others find
        theirs. All ranks call it alike.
        """
        requests = {name: self._distinct(batch, name, features) for name, features in self._features.items()}
        answers = self._answered(requests, training)
        named: dict[str, Tensor] = {}
        for name, features in self._features.items():
            rows = answers[name]
            rows = torch.where(rows < 0, self._spaces[name].default_row, rows).index_select(0, requests[name].inverse)
            lengths = [_values(batch, feature).numel() for feature in features]
            named |= dict(zip(features, rows.split(lengths), strict=True))
        weighted = None if batch.weighted_ids is None else _renamed(batch.weighted_ids, named)
        return replace(batch, ids=_renamed(batch.ids, named), weighted_ids=weighted)

    def _distinct(self, batch: Batch, name: str, features: Sequence[str]) -> Distinct:
        """Returns the distinct ids of a space; those that nothing is learned from are not counted."""
        values, times = [_values(batch, feature) for feature in features], None
        if not self._only_found.isdisjoint(features):
            counted = (f not in self._only_found for f in features)
            times = torch.cat([torch.full_like(v, c) for v, c in zip(values, counted, strict=True)])
        ids = torch.cat(values) if len(values) > 1 else values[0]
        return distinct(self._spaces[name].geometry, ids, times)

    def _answered(self, requests: Mapping[str, Distinct], training: bool) -> dict[str, Tensor]:
        """Returns the rows of each space's distinct ids, -1 for none."""
        if self._ranks == 1:
            served = {name: self._serve(name, r.ids, r.counts, training) for name, r in requests.items()}
            self._renew([fresh for _, fresh in served.values()])
            return {name: rows for name, (rows, _) in served.items()}
        sizes = [r.starts.index_select(0, self._cuts[name]).diff() for name, r in requests.items()]
        sent = torch.stack(sizes, 1)  # [ranks, spaces]
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group)
        to, of = sent.tolist(), received.tolist()
        parts = [torch.stack([r.ids, r.counts], 1) for r in requests.values()]
        pieces = [p.split([row[i] for row in to]) for i, p in enumerate(parts)]
        packed = torch.cat([pieces[i][rank] for rank in range(self._ranks) for i in range(len(pieces))])
        there = self._exchange(packed, [sum(row) for row in of], [sum(row) for row in to])
        answers, fresh = self._serve_all(list(requests), there, of, training)
        if training:
            self._renew(self._of_all_ranks(fresh))
        back = self._exchange(answers, [sum(row) for row in to], [sum(row) for row in of])
        blocks = back.split([size for row in to for size in row])
        return {name: torch.cat(blocks[i :: len(requests)]) for i, name in enumerate(requests)}

    def _serve_all(
        self, names: Sequence[str], packed: Tensor, sizes: list[list[int]], training: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Answers (id, count) [n, 2], by asking rank, then by space: their rows [n], and each space's fresh [m, 2]."""
        blocks = packed.split([size for row in sizes for size in row])
        answers: list[Tensor] = [packed.new_empty(0)] * len(blocks)
        fresh = []
        for i, name in enumerate(names):
            mine = torch.cat(blocks[i :: len(names)])
            asked = distinct(self._spaces[name].geometry, mine[:, 0], mine[:, 1])
            rows, fresh_here = self._serve(name, asked.ids, asked.counts, training)
            fresh.append(fresh_here)
            answers[i :: len(names)] = rows.index_select(0, asked.inverse).split([row[i] for row in sizes])
        return torch.cat(answers), fresh

    def _serve(self, name: str, ids: Tensor, counts: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Returns the rows of distinct ids of this rank's buckets, and the fresh (row, id) [m, 2]."""
        id_map, nothing = self.maps[name], ids.new_empty((0, 2))
        if not len(ids):
            return ids, nothing
        if not training:
            return id_map.find(ids), nothing
        if self._only_found.isdisjoint(self._features[name]):
            observed = id_map.observe(ids, counts, self._step)
            return observed.rows, torch.stack([observed.fresh_rows, observed.fresh_ids], 1)
        learned = counts > 0
        if not bool(learned.any()):
            return id_map.find(ids), nothing
        observed = id_map.observe(ids[learned], counts[learned], self._step)
        return id_map.find(ids), torch.stack([observed.fresh_rows, observed.fresh_ids], 1)

    def _exchange(self, packed: Tensor, received: list[int], sent: list[int]) -> Tensor:
        result = packed.new_empty((sum(received), *packed.shape[1:]))
        dist.all_to_all_single(result, packed.contiguous(), received, sent, group=self._group)
        return result

    def _of_all_ranks(self, fresh: Sequence[Tensor]) -> list[Tensor]:
        """Returns all ranks' fresh (row, id) [m, 2] of each space."""
        mine = torch.tensor([len(f) for f in fresh], device=fresh[0].device)
        sizes = [torch.empty_like(mine) for _ in range(self._ranks)]
        dist.all_gather(sizes, mine, group=self._group)
        of = torch.stack(sizes).tolist()
        packed = torch.cat(list(fresh))
        gathered = self._exchange(packed.repeat(self._ranks, 1), [sum(r) for r in of], [len(packed)] * self._ranks)
        blocks = gathered.split([size for row in of for size in row])
        return [torch.cat(blocks[i :: len(fresh)]) for i in range(len(fresh))]

    def _renew(self, fresh: Sequence[Tensor]) -> None:
        """Gives the fresh rows of each space, (row, id) [m, 2], in all its tables what their ids start with."""
        for tables, of_space in zip(self._tables.values(), fresh, strict=True):
            for table in tables if len(of_space) else ():
                renew_rows(table, of_space[:, 0], of_space[:, 1], self._seed)


@torch.no_grad()
def renew_rows(table: LiveTable, rows: Tensor, ids: Tensor, seed: int) -> None:
    """Fills those of `rows` [n] that this rank has with the first values of `ids` [n], and the state that has these."""
    at_zero, spec = starts_at_zero(table.table), table.table
    update = None if spec.optimizer is None else row_update(spec)  # an unsharded lookup only reads
    for shard in table.shards:
        if len(shard.weight) < spec.num_embeddings:
            here = ((rows >= shard.row) & (rows < shard.row + len(shard.weight))).nonzero().squeeze(1)
            at, its = rows[here] - shard.row, ids[here]
        else:
            at, its = rows, ids
        if not len(at):
            continue
        values = None if at_zero else draw_rows(spec, seed, its)[:, shard.column :]
        _fill(table, shard, at, values)
        if values is not None and update is not None and update.holds_weights:
            stored = values[:, : table.logical(shard, "weight").shape[1]].to(shard.weight.dtype)
            for name, state in update.fresh_state(stored).items():
                shard.tensors[name].index_copy_(0, at, state)


def _fill(table: LiveTable, shard: TableShard, at: Tensor, values: Tensor | None) -> None:
    """Sets rows `at` of a shard to first values [n, >= columns], None: to 0; and their state to 0."""
    weight = table.logical(shard, "weight")
    cleared = [tensor for name, tensor in shard.tensors.items() if name != "weight" or values is None]
    columns = None if values is None else values[:, : weight.shape[1]]
    if are_renewed_here(*shard.tensors.values()):
        renew(at, cleared, shard.weight, columns)
        return
    for tensor in cleared:
        tensor.index_fill_(0, at, 0)
    if columns is not None:
        weight.index_copy_(0, at, columns.to(weight.dtype))


def _values(batch: Batch, feature: str) -> Tensor:
    for ids in (batch.ids, batch.weighted_ids):
        if ids is not None and feature in ids.keys():
            return ids[feature].values()
    raise ValueError(f"the batch has no ids of feature {feature!r}")


def _renamed(ids: KeyedJaggedTensor, named: Mapping[str, Tensor]) -> KeyedJaggedTensor:
    """Returns the KeyedJaggedTensor with other values for some of its keys."""
    keys = ids.keys()
    if named.keys().isdisjoint(keys):
        return ids
    values = [named.get(key, old) for key, old in zip(keys, ids.values().split(ids.length_per_key()), strict=True)]
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.cat(values),
        lengths=ids.lengths(),
        weights=ids.weights_or_none(),
        stride=ids.stride(),
    )
