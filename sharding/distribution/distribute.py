"""A plan is applied to a training step: tables by TorchRec's DistributedModelParallel, the tower in replicas.

A step is `begin(context)`, forward, backward, `step()`.

Gradients: TorchRec, DistributedDataParallel and `Replicas` all average over ranks, so that a loss of
`world_size * local_total / global_count` on each rank gives every table and the tower the gradient that one process
would give them. Sharded tables are updated inside backward; `step` updates the data-parallel ones.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingEnv, ShardingPlan

from shardrec.data_pipeline.batch import Batch
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.distribution.codecs import codecs
from shardrec.sharding.distribution.host_groups import use_host_groups
from shardrec.sharding.distribution.replicas import Replicas, ReplicatedBags, ReplicatedSequences
from shardrec.sharding.distribution.row_kernels import RowUpdateKernel, mark_table
from shardrec.sharding.distribution.sharded import (
    BagSharder,
    SequenceSharder,
    ShardedBags,
    ShardedSequences,
    kernels,
    parameter_sharding,
)
from shardrec.sharding.dynamic.dynamic_tables import DynamicTables
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.lookup.detached import learned_features
from shardrec.sharding.lookup.lookup import EmbeddingLookup, Group
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.plan import Plan, TablePlan
from shardrec.sharding.tables.first_values import initialize_tables
from shardrec.sharding.tables.live import LiveTable, TableShard, merged
from shardrec.sharding.tables.module_names import module_name, table_name
from shardrec.sharding.updates.choose import start_tables
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables
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
        if self.lookup.dynamic is not None:
            self.lookup.dynamic.begin(context.step)

    @property
    def row_form(self) -> str | None:
        """Returns which form of our own kernel updates rows: compiled or torch; None: all tables are FBGEMM's."""
        forms = {"torch" if rows.compiled is None else "compiled" for rows in _own_rows(self._kernels, self.replicas)}
        return forms.pop() if forms else None

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
) -> Distributed:
    """Shards the one `EmbeddingLookup` inside `step`, which is on the meta device, and makes the tower's replicas.

    `optimizer` must be the one that the plan was made with. All ranks call it alike; where there is no process group,
    one of a single process is made. Tables get the first values of `seed`; the tower those of rank 0.
    """
    if process_group is None:
        process_group = _default_group(plan, device)
    assert dist.get_world_size(process_group) == plan.world_size
    ((path, lookup),) = [(n, m) for n, m in step.named_modules() if isinstance(m, EmbeddingLookup)]
    planned = {t.table.optimizer for t in plan.tables.values()}
    declared = {t.optimizer or optimizer for g in lookup.groups for t in g.tables}
    assert planned == declared, "the plan was made with other optimizers"
    lookup.replace_tables({name: t.table for name, t in plan.tables.items()})

    replicated = _use_plan(lookup, plan, device, seed)
    use_host_groups(plan, process_group, device)
    torchrec_plan = _torchrec_plan(path, lookup, plan, _devices(device, process_group))
    module = _sharded(step, torchrec_plan, plan.exchange, device, process_group)
    sharded = [p.collection for p in lookup.collections if isinstance(p.collection, ShardedBags | ShardedSequences)]
    local_kernels = [kernel for collection in sharded for kernel in kernels(collection)]
    replicas = Replicas(replicated, process_group)
    _agree_on_form(_own_rows(local_kernels, replicas), device, process_group)
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


def _own_rows(local_kernels: Iterable[Any], replicas: Replicas) -> list[RowTables]:
    """Returns the tables of this rank that our own kernel updates."""
    return [*(k.tables for k in local_kernels if isinstance(k, RowUpdateKernel)), *replicas.kernels]


def _agree_on_form(own: Sequence[RowTables], device: torch.device, process_group: dist.ProcessGroup) -> None:
    """Lets torch operations update rows on all ranks where a rank has nothing compiled: replicas have to stay equal."""
    if device.type != "cpu" or dist.get_world_size(process_group) == 1:
        return
    lacking = torch.tensor([any(rows.compiled is None for rows in own)], dtype=torch.int32)
    dist.all_reduce(lacking, dist.ReduceOp.MAX, group=process_group)
    if lacking.item():
        for rows in own:
            rows.compiled = None


def _sharded(
    step: nn.Module, plan: ShardingPlan, exchange: Exchange, device: torch.device, process_group: dist.ProcessGroup
) -> DistributedModelParallel:
    """Returns the step on its device, with collections by TorchRec's plan and the tower as replicas of rank 0's."""
    module = DistributedModelParallel(
        step,
        env=ShardingEnv.from_process_group(process_group),
        device=device,
        plan=plan,
        sharders=[make(qcomm_codecs_registry=codecs(exchange)) for make in (BagSharder, SequenceSharder)],
        init_data_parallel=False,
        init_parameters=False,
        # static: parameters that a loss never reaches hang nobody; buffers are each rank's own after the start
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=True),
    )
    step.to(device)
    if dist.get_world_size(process_group) > 1 and any(p.requires_grad for p in step.parameters()):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # renamed in torch 2.13
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


def _use_plan(
    lookup: EmbeddingLookup, plan: Plan, device: torch.device, seed: int
) -> list[ReplicatedBags | ReplicatedSequences]:
    """Splits the lookup's collections into what TorchRec shards (on the meta device) and replicas; returns these."""
    copied_names = {n for n, t in plan.tables.items() if t.placement == "data_parallel"}
    collections: list[tuple[Group, nn.Module]] = []
    replicated: list[ReplicatedBags | ReplicatedSequences] = []
    for group in lookup.groups:
        names = {t.name for t in group.tables}
        sharded, copied = group.only(names - copied_names), group.only(names & copied_names)
        if sharded.tables:
            collection = sharded.collection(torch.device("meta"))
            named = {n.removesuffix(".weight").split(".")[-1]: p for n, p in collection.named_parameters()}
            for table in sharded.tables:
                mark_table(named[module_name(table.name)], table, device.type, seed)
            collections.append((sharded, collection))
        if copied.tables:
            make = ReplicatedSequences if group.kind == "sequences" else ReplicatedBags
            replicated.append(make(copied, device, seed))
            collections.append((copied, replicated[-1]))
    lookup.use_collections(collections)
    return replicated


def _devices(device: torch.device, process_group: dist.ProcessGroup) -> list[torch.device]:
    """Returns the devices of all ranks, which each of them knows of itself alone: `cuda:1` may be rank 0's."""
    ranks = dist.get_world_size(process_group)
    if device.type == "cpu" or ranks == 1:
        return [device] * ranks
    mine = torch.tensor([torch.cuda.current_device() if device.index is None else device.index], device=device)
    indices = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(indices, mine, group=process_group)
    return [torch.device(device.type, int(index)) for index in indices]


def _torchrec_plan(path: str, lookup: EmbeddingLookup, plan: Plan, devices: Sequence[torch.device]) -> ShardingPlan:
    def sharding(table: TablePlan) -> Any:
        shards = [(s.rank, s.row, s.column, s.rows, s.columns) for s in table.shards]
        return parameter_sharding(table.table, table.placement, shards, devices)

    modules = {}
    for i, part in enumerate(lookup.collections):
        if not isinstance(part.collection, ReplicatedBags | ReplicatedSequences):
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
