"""A plan is applied to a training step: tables by TorchRec's DistributedModelParallel, the tower in replicas.

A step is `begin(context)`, forward, backward, `step()`.

Gradients: TorchRec, DistributedDataParallel and `Replicas` all average over ranks, so that a loss of
`world_size * local_total / global_count` on each rank gives every table and the tower the gradient that one process
would give them. Sharded tables are updated inside backward; `step` updates the data-parallel ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingEnv, ShardingPlan

from shardrec.data_pipeline.batch import Batch
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.distribution.codecs import codecs
from shardrec.sharding.distribution.exchanged import use_exchange
from shardrec.sharding.distribution.host_groups import SUMMED_WITHIN_HOSTS, use_host_groups
from shardrec.sharding.distribution.local_tables import LocalTables, local_tables
from shardrec.sharding.distribution.replicas import Replicas
from shardrec.sharding.distribution.row_kernels import mark_table
from shardrec.sharding.distribution.sharded import (
    BagSharder,
    SequenceSharder,
    ShardedBags,
    ShardedSequences,
    kernels,
    parameter_sharding,
)
from shardrec.sharding.distribution.tower import TowerWrapper
from shardrec.sharding.dynamic.dynamic_tables import DynamicTables
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.kernels.library import library
from shardrec.sharding.lookup.detached import learned_features
from shardrec.sharding.lookup.groups import Group
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.plan import Plan, TablePlan
from shardrec.sharding.tables.first_values import initialize_tables
from shardrec.sharding.tables.live import LiveTable, TableShard, merged
from shardrec.sharding.tables.module_names import module_name, table_name
from shardrec.sharding.updates.choose import start_tables
from shardrec.sharding.updates.compiled_rows import MOST_ROWS
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.sample_counts import SampleCounts


@dataclass
class Distributed:
    """A distributed step has sharded tables and a replicated tower; `module(batch)` runs it forward.

    tables: this rank's live table memory by name, for checkpoints. lookup: tells the order of ids in batches.
    """

    module: nn.Module
    step_module: nn.Module
    lookup: EmbeddingLookup
    plan: Plan
    tables: dict[str, LiveTable]
    replicas: Replicas
    _kernels: list[Any] = field(repr=False)
    _process_group: dist.ProcessGroup = field(repr=False)

    def tower_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the step's parameters without tables, by names that depend on no plan."""
        return dict(self.step_module.named_parameters())

    def tower_buffers(self) -> dict[str, Tensor]:
        """Returns the step's persistent buffers, without those of the lookup, by names that depend on no plan."""
        inside = tuple(f"{name}." for name, m in self.step_module.named_modules() if m is self.lookup)
        saved = self.step_module.state_dict(keep_vars=True)
        return {n: b for n, b in self.step_module.named_buffers() if n in saved and not n.startswith(inside)}

    def begin(self, context: UpdateContext) -> None:
        """Starts a step, before its forward pass; data-parallel gradients that no `step` has used are forgotten."""
        for kernel in self._kernels:
            kernel.begin(context)
        self.replicas.begin(context)
        self.lookup.guard.begin(context)
        if self.lookup.dynamic is not None:
            self.lookup.dynamic.begin(context.step)

    @property
    def row_form(self) -> str | None:
        """Returns which kernel updates rows: our own, compiled or torch, or FBGEMM; None: no row changes here."""
        forms: set[str] = {kernel.form for kernel in (*self._kernels, *self.replicas.kernels) if kernel.form}
        return max(forms - {"FBGEMM"}, default=max(forms, default=None))

    @property
    def id_maps(self) -> dict[str, IdMap]:
        """Returns this rank's part of the id maps of dynamic tables, by id space."""
        return self.lookup.dynamic.maps if self.lookup.dynamic is not None else {}

    @property
    def counted_tables(self) -> tuple[str, ...]:
        """Returns the tables with `decay: frequency`, for which `count_samples` has to be called before step 1."""
        return tuple(n for n, t in self.tables.items() if t.table.optimizer and t.table.optimizer.decay == "frequency")

    def count_samples(self, batches: Iterable[Batch]) -> None:
        """Counts anew in how many rows of all ranks' batches each row of the `counted_tables` occurs.

        batches: those of one epoch, on the tables' device; each rank has equally many. They are not read where there is
        no such table. Raises UserError for 2^31 rows or more.
        """
        if not self.counted_tables:
            return
        features = {name: self.lookup.learned_from(name) for name in self.counted_tables}
        SampleCounts([self.tables[n] for n in self.counted_tables], features, self._process_group).count(batches)

    def step(self) -> None:
        """Updates the data-parallel tables; the others were updated inside backward. All ranks call it alike."""
        self.replicas.step()

    def zero_shares(self) -> dict[str, float]:
        """Returns the share of weights that are exactly 0 in each table with an l1. All ranks call it alike."""
        sparse = [t for t in self.tables.values() if t.table.optimizer and t.table.optimizer.l1 > 0]
        if not sparse:
            return {}
        counts = torch.tensor([t.zeros() for t in sparse], dtype=torch.float64, device=self.plan.device)
        dist.all_reduce(counts, group=self._process_group)
        shares = {}
        for table, count in zip(sparse, counts.tolist(), strict=True):
            copies = self.plan.world_size if table.replicated else 1
            shares[table.name] = count / (table.table.num_embeddings * table.table.embedding_dim * copies)
        return shares


def distribute(
    step: nn.Module,
    plan: Plan,
    *,
    optimizer: TableOptimizer,
    seed: int,
    device: torch.device,
    process_group: dist.ProcessGroup | None = None,
    compiled: bool = True,
) -> Distributed:
    """Shards the one `EmbeddingLookup` inside `step`, which is on the meta device, and makes the tower's replicas.

    `optimizer` must be the one that the plan was made with. All ranks call it alike; where there is no process group,
    one of a single process is made. Tables get the first values of `seed`; the tower those of rank 0. compiled: False
    keeps to FBGEMM's kernels and torch operations on a CPU too.
    """
    if process_group is None:
        process_group = _default_group(plan, device)
    assert dist.get_world_size(process_group) == plan.world_size
    ((path, lookup),) = [(n, m) for n, m in step.named_modules() if isinstance(m, EmbeddingLookup)]
    planned = {t.table.optimizer for t in plan.tables.values()}
    declared = {t.optimizer or optimizer for g in lookup.groups for t in g.tables}
    assert planned == declared, "the plan was made with other optimizers"
    lookup.replace_tables({name: t.table for name, t in plan.tables.items()})

    compiled = compiled and _all_have_compiled(device, process_group)
    _use_plan(lookup, plan, device, seed, compiled=compiled)
    use_host_groups(plan, process_group, device)
    torchrec_plan = _torchrec_plan(path, lookup, plan, _devices(device, process_group), compiled=compiled)
    module = _sharded(step, torchrec_plan, plan.exchange, device, process_group)
    use_exchange(lookup, plan, device, process_group)
    replicated, local_kernels = _placed(lookup, plan)
    replicas = Replicas(replicated, process_group)
    tables = _live_tables(plan, local_kernels) | replicas.tables()
    tables = {n: tables[n] for n in plan.tables}
    trained = [t for t in tables.values() if not t.table.frozen]
    initialize_tables(trained, seed)
    start_tables(trained)
    lookup.use_dynamic(
        DynamicTables(
            lookup.dynamic_features,
            tables.values(),
            learned=learned_features(lookup.inputs),
            seed=seed,
            device=device,
            process_group=process_group,
        )
    )
    distributed = Distributed(module, step, lookup, plan, tables, replicas, local_kernels, process_group)
    distributed.begin(UpdateContext(0))
    return distributed


def _all_have_compiled(device: torch.device, process_group: dist.ProcessGroup) -> bool:
    """Says whether the compiled kernel updates rows: on CPUs where all ranks have it, as replicas stay equal."""
    if device.type != "cpu":
        return False
    lacking = torch.tensor([library() is None], dtype=torch.int32)
    if dist.get_world_size(process_group) > 1:
        dist.all_reduce(lacking, dist.ReduceOp.MAX, group=process_group)
    return not lacking.item()


def _sharded(
    step: nn.Module, plan: ShardingPlan, exchange: Exchange, device: torch.device, process_group: dist.ProcessGroup
) -> nn.Module:
    """Returns the step on its device, with collections by TorchRec's plan and the tower as replicas of rank 0's.

    Where all tables are local, and so is the tower, that is the step itself.
    """
    if not plan.plan and dist.get_world_size(process_group) == 1:
        return step.to(device)
    module = DistributedModelParallel(
        step,
        env=ShardingEnv.from_process_group(process_group),
        device=device,
        plan=plan,
        sharders=[make(qcomm_codecs_registry=codecs(exchange)) for make in (BagSharder, SequenceSharder)],
        init_data_parallel=False,
        init_parameters=False,
        data_parallel_wrapper=TowerWrapper(),
    )
    step.to(device)
    if dist.get_world_size(process_group) > 1 and any(p.requires_grad for p in step.parameters()):
        module.init_data_parallel()
    return module


def _default_group(plan: Plan, device: torch.device) -> dist.ProcessGroup:
    """Returns the group of all processes; makes one of this process alone where there is none."""
    if not dist.is_initialized():
        assert plan.world_size == 1, "several ranks need a process group"
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    return dist.group.WORLD


def _use_plan(lookup: EmbeddingLookup, plan: Plan, device: torch.device, seed: int, *, compiled: bool) -> None:
    """Splits the lookup's collections into what TorchRec shards (on the meta device) and what needs no exchange."""
    copied = {n for n, t in plan.tables.items() if t.placement == "data_parallel"}
    in_hosts = {n for n, t in plan.tables.items() if t.placement in SUMMED_WITHIN_HOSTS}
    held = {n for n, t in plan.tables.items() if t.table.frozen or t.table.num_embeddings < MOST_ROWS}
    alone = held - copied if plan.world_size == 1 and compiled else set()
    frozen = {n for n in alone if plan.tables[n].table.frozen}
    collections: list[tuple[Group, nn.Module]] = []
    for group in lookup.groups:
        for names in (set(plan.tables) - copied - alone - in_hosts, in_hosts):
            if not (sharded := group.only(names)).tables:
                continue
            collection = sharded.collection(torch.device("meta"))
            named = {n.removesuffix(".weight").split(".")[-1]: p for n, p in collection.named_parameters()}
            for table in sharded.tables:
                mark_table(named[module_name(table.name)], table, device.type, seed, compiled=compiled)
            collections.append((sharded, collection))
        for names in (alone - frozen, frozen, copied):
            if (local := group.only(names)).tables:
                made = local_tables(
                    local, device, seed, narrow=lookup.narrow_features, deferred=names is copied, compiled=compiled
                )
                collections.append((local, made))
    lookup.use_collections(collections)


def _placed(lookup: EmbeddingLookup, plan: Plan) -> tuple[list[LocalTables], list[Any]]:
    """Returns the data-parallel tables, and the kernels of all others that this rank holds rows of."""
    replicated: list[LocalTables] = []
    local_kernels: list[Any] = []
    for collection in (part.collection for part in lookup.collections):
        if isinstance(collection, ShardedBags | ShardedSequences):
            local_kernels += kernels(collection)
        elif isinstance(collection, LocalTables):
            is_copied = plan.tables[collection.group.tables[0].name].placement == "data_parallel"
            (replicated if is_copied else local_kernels).append(collection)
    return replicated, local_kernels


def _devices(device: torch.device, process_group: dist.ProcessGroup) -> list[torch.device]:
    """Returns the devices of all ranks, which each of them knows of itself alone: `cuda:1` may be rank 0's."""
    ranks = dist.get_world_size(process_group)
    if device.type == "cpu" or ranks == 1:
        return [device] * ranks
    mine = torch.tensor([torch.cuda.current_device() if device.index is None else device.index], device=device)
    indices = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(indices, mine, group=process_group)
    return [torch.device(device.type, int(index)) for index in indices]


def _torchrec_plan(
    path: str, lookup: EmbeddingLookup, plan: Plan, devices: Sequence[torch.device], *, compiled: bool
) -> ShardingPlan:
    def sharding(table: TablePlan) -> Any:
        shards = [(s.rank, s.row, s.column, s.rows, s.columns) for s in table.shards]
        return parameter_sharding(table.table, table.placement, shards, devices, compiled=compiled)

    modules = {}
    for i, part in enumerate(lookup.collections):
        if not isinstance(part.collection, LocalTables):
            name = f"{path}.parts.{i}.collection".lstrip(".")
            tables = {module_name(t.name): sharding(plan.tables[t.name]) for t in part.group.tables}
            modules[name] = EmbeddingModuleShardingPlan(tables)
    return ShardingPlan(plan=modules)


def _live_tables(plan: Plan, local_kernels: Iterable[Any]) -> dict[str, LiveTable]:
    """Returns the kernels' memory by table; tables of which this rank has nothing have no shards."""
    empty = [LiveTable(t.table, ()) for t in plan.tables.values()]
    return merged(
        [
            *empty,
            *(
                LiveTable(plan.tables[table_name(table)].table, (TableShard(row, column, tensors),))
                for kernel in local_kernels
                for table, row, column, tensors in kernel.shards()
            ),
        ]
    )
