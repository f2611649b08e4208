"""Tables and topology -> plan: the run file's placements where given, TorchRec's planner for the others.

Pure arithmetic on every rank alike: nothing is allocated and no process group is needed, so that `shardrec plan` works
on one machine for any other.

- One rank: everything is table-wise, whatever was asked; the placements are the same thing there.
- Row-wise needs a row for every rank's equal block and column-wise at least eight columns; tables too small for what was
  asked are placed table-wise.
- What is left to choose: TorchRec's EmbeddingShardingPlanner spreads tables table-wise by its cost model; tables that
  hold more than half of a rank's fair share may also go row-wise. It never chooses column-wise. Small tables are not
  replicated by default: see `docs/sharding.md` for what was measured.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner import Topology as TorchRecTopology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from data_pipeline.errors import UserError
from models.inputs import EmbeddingTable, Input, Placement, TableOptimizer
from sharding.optimizers import check_table
from sharding.plan import Plan, ShardPlan, TablePlan, readable, replica_bytes, table_bytes
from sharding.tables import KERNEL_COLUMNS, declared_tables, module_name, physical_dim
from sharding.topology import Topology
from sharding.torchrec_hooks import BagSharder


class PlanError(UserError):
    """The tables do not fit: which, how many bytes are short, what to do. One line."""


def plan_tables(inputs: Mapping[str, Input], optimizer: TableOptimizer, topology: Topology) -> Plan:
    """Where each table of the inputs goes; `optimizer` is for tables that name none.

    Raises PlanError where the tables do not fit, UserError for what the device does not have (an optimizer, a dtype)
    and for column-wise row-wise AdaGrad.
    """
    tables = declared_tables(inputs, optimizer)
    for table in tables.values():
        check_table(table, topology.device)
        _check_placement(table)
    placed = {t.name: _fixed(t, topology.world_size) for t in tables.values()}
    plans = {n: _decided(tables[n], p, topology.world_size) for n, p in placed.items() if p in ("data_parallel",)}
    if topology.world_size == 1:
        plans = {n: TablePlan(t, "table_wise", (_whole(t, 0),)) for n, t in tables.items()}
    else:
        _check_replicas(plans, topology)
        others = {n: (tables[n], placed[n]) for n in tables if n not in plans}
        taken = sum(replica_bytes(p.table) for p in plans.values())
        plans |= _spread(others, replace(topology, memory_per_rank=topology.memory_per_rank - taken))
    plan = Plan(
        {n: plans[n] for n in tables},
        topology.world_size,
        topology.local_world_size,
        topology.device,
        topology.memory_per_rank,
    )
    _check_memory(plan)
    return plan


# ---------------------------------------------------------------- what is asked


def _check_placement(table: EmbeddingTable) -> None:
    assert table.optimizer is not None
    if table.placement == "column_wise" and table.optimizer.name == "rowwise_adagrad":
        raise UserError(
            f"table {table.name!r}: column_wise with rowwise_adagrad is another algorithm (each column shard would keep a "
            "mean of its own columns' gradients only, so results would depend on the plan); choose optimizer adagrad or "
            "sgd, or placement row_wise or table_wise"
        )


def _fixed(table: EmbeddingTable, world_size: int) -> Placement | None:
    """The placement asked for, or table-wise where the table is too small for it; None: free to choose."""
    if table.placement == "row_wise" and not _has_row_blocks(table, world_size):
        return "table_wise"
    if table.placement == "column_wise" and physical_dim(table.embedding_dim) <= KERNEL_COLUMNS:
        return "table_wise"
    return table.placement


def _has_row_blocks(table: EmbeddingTable, world_size: int) -> bool:
    """Whether equal blocks of rows, the last one shorter, leave no rank without a row (TorchRec fails on such a one)."""
    block = -(-table.num_embeddings // world_size)
    return (world_size - 1) * block < table.num_embeddings


def column_width(columns: int, world_size: int) -> int:
    """Columns of each column-wise shard: equal, a multiple of four, and as wide as still gives every rank one."""
    quads = columns // KERNEL_COLUMNS
    counts = [n for n in range(1, quads + 1) if quads % n == 0]
    return columns // next((n for n in counts if n >= world_size), quads)


def _whole(table: EmbeddingTable, rank: int) -> ShardPlan:
    return ShardPlan(rank, 0, 0, table.num_embeddings, physical_dim(table.embedding_dim))


def _decided(table: EmbeddingTable, placement: Placement | None, world_size: int, rank: int = 0) -> TablePlan:
    """A plan that needs no planner: replicas, row blocks, or the whole table on `rank`."""
    columns = physical_dim(table.embedding_dim)
    if placement == "data_parallel":
        return TablePlan(table, placement, tuple(_whole(table, r) for r in range(world_size)))
    if placement == "row_wise":
        block = -(-table.num_embeddings // world_size)
        starts = [r * block for r in range(world_size)]
        sizes = [min(block, table.num_embeddings - s) for s in starts]
        shards = (ShardPlan(r, s, 0, n, columns) for r, (s, n) in enumerate(zip(starts, sizes, strict=True)))
        return TablePlan(table, placement, tuple(shards))
    return TablePlan(table, "table_wise", (_whole(table, rank),))


# ---------------------------------------------------------------- what is chosen


def _spread(tables: Mapping[str, tuple[EmbeddingTable, Placement | None]], topology: Topology) -> dict[str, TablePlan]:
    """TorchRec's choice among what is allowed; where it finds none, everything free goes row-wise."""
    if not tables:
        return {}
    share = sum(table_bytes(t) for t, _ in tables.values()) / topology.world_size
    allowed: dict[str, list[str]] = {}
    for name, (table, placement) in tables.items():
        large = table_bytes(table) > share / 2 and _has_row_blocks(table, topology.world_size)
        allowed[name] = [placement] if placement else ["table_wise", "row_wise"] if large else ["table_wise"]
    try:
        return _torchrec_plan({n: t for n, (t, _) in tables.items()}, allowed, topology)
    except PlannerError:
        return _balanced({n: t for n, (t, _) in tables.items()}, allowed, topology.world_size)


def _torchrec_plan(
    tables: Mapping[str, EmbeddingTable], allowed: Mapping[str, list[str]], topology: Topology
) -> dict[str, TablePlan]:
    configs = [
        EmbeddingBagConfig(
            name=module_name(t.name),
            num_embeddings=t.num_embeddings,
            embedding_dim=physical_dim(t.embedding_dim),
            feature_names=[module_name(t.name)],
        )
        for t in tables.values()
    ]
    module = torch.nn.ModuleDict({"tables": EmbeddingBagCollection(tables=configs, device=torch.device("meta"))})
    constraints = {
        module_name(t.name): ParameterConstraints(
            sharding_types=allowed[n],
            compute_kernels=["fused"],
            min_partition=column_width(physical_dim(t.embedding_dim), topology.world_size),
        )
        for n, t in tables.items()
    }
    with _quiet_torchrec():
        planner = EmbeddingShardingPlanner(
            topology=_torchrec_topology(topology),
            constraints=constraints,
            storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        )
        chosen = planner.plan(module, [BagSharder()]).plan["tables"]  # type: ignore[list-item]
    found = {}
    for name, table in tables.items():
        sharding = chosen[module_name(name)]
        shards = sharding.sharding_spec.shards
        at = [(s.placement.rank(), *s.shard_offsets, *s.shard_sizes) for s in shards]
        found[name] = TablePlan(table, sharding.sharding_type, tuple(ShardPlan(*s) for s in at))
    return found


def _torchrec_topology(topology: Topology) -> TorchRecTopology:
    cuda = topology.device == "cuda"
    return TorchRecTopology(
        world_size=topology.world_size,
        local_world_size=topology.local_world_size,
        compute_device=topology.device,
        hbm_cap=topology.memory_per_rank if cuda else 0,
        ddr_cap=0 if cuda else topology.memory_per_rank,
        hbm_mem_bw=topology.row_bandwidth / 1000,  # TorchRec counts bytes a millisecond
        ddr_mem_bw=topology.row_bandwidth / 1000,
        intra_host_bw=topology.local_bandwidth / 1000,
        inter_host_bw=topology.host_bandwidth / 1000,
    )


def _balanced(
    tables: Mapping[str, EmbeddingTable], allowed: Mapping[str, list[str]], world_size: int
) -> dict[str, TablePlan]:
    """The placement of least peak memory: rows spread where allowed, whole tables on the emptiest rank, large first."""
    load = [0] * world_size
    found = {}
    for name in sorted(tables, key=lambda n: ("row_wise" not in allowed[n], -table_bytes(tables[n]), n)):
        table = tables[name]
        if "column_wise" in allowed[name]:
            width = column_width(physical_dim(table.embedding_dim), world_size)
            starts = range(0, physical_dim(table.embedding_dim), width)
            shards = tuple(
                ShardPlan((i + load.index(min(load))) % world_size, 0, c, table.num_embeddings, width)
                for i, c in enumerate(starts)
            )
            found[name] = TablePlan(table, "column_wise", shards)
        elif "row_wise" in allowed[name]:
            found[name] = _decided(table, "row_wise", world_size)
        else:
            found[name] = _decided(table, "table_wise", world_size, rank=load.index(min(load)))
        load = [held + found[name].bytes_on(r) for r, held in enumerate(load)]
    return found


@contextmanager
def _quiet_torchrec() -> Iterator[None]:
    """Keeps the planner's remarks on how topologies are made out of a user's sight."""
    logger = logging.getLogger("torchrec.distributed.planner")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------- does it fit?

_REMEDY = "use more ranks or hosts, fewer rows or columns, dtype fp16, or optimizer rowwise_adagrad or sgd"


def _check_replicas(plans: Mapping[str, TablePlan], topology: Topology) -> None:
    need = sum(replica_bytes(p.table) for p in plans.values())
    if need > topology.memory_per_rank:
        largest = max(plans.values(), key=lambda p: replica_bytes(p.table))
        raise PlanError(
            f"not enough memory: data_parallel tables need {readable(need)} on every rank, {largest.name!r} the most "
            f"({readable(replica_bytes(largest.table))}), which is {need - topology.memory_per_rank:,} bytes more than "
            f"the {readable(topology.memory_per_rank)} there are; place it row_wise or table_wise"
        )


def _check_memory(plan: Plan) -> None:
    """Raises PlanError for the rank that is short of most."""
    held = plan.bytes_per_rank
    rank = max(range(plan.world_size), key=held.__getitem__)
    short = held[rank] - plan.memory_per_rank
    if short <= 0:
        return
    largest = sorted(plan.tables.values(), key=lambda p: -p.bytes_on(rank))[:3]
    named = ", ".join(f"{p.name} ({p.placement}, {readable(p.bytes_on(rank))})" for p in largest if p.bytes_on(rank))
    total, there = sum(held), plan.memory_per_rank * plan.world_size
    remedy = _REMEDY
    whole = [p for p in largest if p.placement != "row_wise" and plan.world_size > 1]
    if total <= there and whole:
        remedy = f"place {whole[0].name!r} row_wise"
    raise PlanError(
        f"not enough memory: the tables need {readable(held[rank])} on rank {rank} and there are "
        f"{readable(plan.memory_per_rank)}, {short:,} bytes short; largest there: {named}; {remedy}"
    )
