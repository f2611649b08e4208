"""Tables and topology -> plan: the run file's placements where given, TorchRec's planner for the others.

Pure arithmetic on every rank alike: nothing is allocated and no process group is needed, so that `shardrec plan`
works on one machine for any other.

- One rank: everything is table-wise, whatever was asked; the placements are the same thing there.
- Tables that every step updates as a whole (`decay: table`) are data-parallel, on one rank too.
- Row-wise needs a row for every rank's equal block and column-wise more than four columns; tables too small for what
  was asked are placed table-wise. Column blocks are dealt to the ranks in turn.
- What is left to choose: TorchRec's EmbeddingShardingPlanner spreads tables table-wise by its cost model; tables that
  hold more than half of a rank's fair share (and 64 MiB), or all where ranks outnumber them, may also go row-wise.
  Where it finds no plan that fits by our arithmetic, all tables that may go row-wise do. Column-wise and
  data-parallel are never chosen: `docs/sharding.md` has the measurements.
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
from sharding.plan import Plan, ShardPlan, TablePlan, readable, table_bytes
from sharding.tables import KERNEL_COLUMNS, declared_tables, module_name, physical_dim
from sharding.topology import Topology
from sharding.torchrec_hooks import BagSharder

_SPREAD_BYTES = 64 << 20  # smaller tables are not worth a second kind of exchange in every step
_ROW_WORK = 16  # what finding a row costs beside reading it, in columns


class PlanError(UserError):
    """The tables do not fit: which, how many bytes are short, what to do. One line."""


def plan_tables(inputs: Mapping[str, Input], optimizer: TableOptimizer, topology: Topology) -> Plan:
    """Where each table of the inputs goes; `optimizer` is for tables that name none.

    Raises PlanError where the tables do not fit, UserError for a dtype that the device does not have, for column-wise
    row-wise AdaGrad and for `decay: table` where a table is not data-parallel.
    """
    tables = declared_tables(inputs, optimizer)
    for table in tables.values():
        check_table(table, topology.device)
        _check_placement(table)
    ranks = topology.world_size
    plans: dict[str, TablePlan] = {}
    for i, table in enumerate(tables.values()):
        placement = _placement(table, ranks)
        if placement == "data_parallel" and (ranks > 1 or _decays_whole(table)):
            plans[table.name] = TablePlan(table, placement, tuple(_whole(table, r) for r in range(ranks)))
        elif ranks == 1:
            plans[table.name] = _whole_table(table, 0)
        elif placement == "row_wise":
            plans[table.name] = _row_blocks(table, ranks)
        elif placement == "column_wise":
            plans[table.name] = _column_blocks(table, ranks, first=i)
    _check_decided(plans, topology)
    taken = max((sum(p.bytes_on(r) for p in plans.values()) for r in range(ranks)), default=0)
    left = replace(topology, memory_per_rank=topology.memory_per_rank - taken)
    plans |= _spread({n: t for n, t in tables.items() if n not in plans}, left)
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
            f"table {table.name!r}: column_wise with rowwise_adagrad is another algorithm (each column shard would "
            "keep a mean of its own columns' gradients only, so results would depend on the plan); choose optimizer "
            "adagrad or sgd, or placement row_wise or table_wise"
        )
    if _decays_whole(table) and table.placement not in (None, "data_parallel"):
        raise UserError(
            f"table {table.name!r}: decay: table updates all rows in every step, which only data_parallel tables can, "
            f"but its placement is {table.placement}; choose data_parallel, or decay: batch"
        )


def _decays_whole(table: EmbeddingTable) -> bool:
    return table.optimizer is not None and table.optimizer.decay == "table"


def _placement(table: EmbeddingTable, world_size: int) -> Placement | None:
    """The placement asked for, or table-wise where the table is too small for it; None: free to choose."""
    if _decays_whole(table):
        return "data_parallel"
    if table.placement == "row_wise" and not _has_row_blocks(table, world_size):
        return "table_wise"
    if table.placement == "column_wise" and physical_dim(table) <= KERNEL_COLUMNS:
        return "table_wise"
    return table.placement


def _has_row_blocks(table: EmbeddingTable, world_size: int) -> bool:
    """Whether equal blocks of rows, the last one shorter, leave no rank without a row, which TorchRec fails on."""
    block = -(-table.num_embeddings // world_size)
    return (world_size - 1) * block < table.num_embeddings


def column_width(columns: int, world_size: int) -> int:
    """Columns of each column-wise shard, as wide as still gives every rank one.

    They are equal multiples of four; where `columns` is not one (our own kernel) the last shard is narrower.
    """
    if columns % KERNEL_COLUMNS:
        return -(-columns // world_size)
    quads = columns // KERNEL_COLUMNS
    counts = [n for n in range(1, quads + 1) if quads % n == 0]
    return columns // next((n for n in counts if n >= world_size), quads)


def _whole(table: EmbeddingTable, rank: int) -> ShardPlan:
    return ShardPlan(rank, 0, 0, table.num_embeddings, physical_dim(table))


def _whole_table(table: EmbeddingTable, rank: int) -> TablePlan:
    return TablePlan(table, "table_wise", (_whole(table, rank),))


def _row_blocks(table: EmbeddingTable, world_size: int) -> TablePlan:
    """Equal blocks of rows, the last one shorter, one a rank."""
    block = -(-table.num_embeddings // world_size)
    blocks = [(r, r * block, min(block, table.num_embeddings - r * block)) for r in range(world_size)]
    columns = physical_dim(table)
    return TablePlan(table, "row_wise", tuple(ShardPlan(r, start, 0, rows, columns) for r, start, rows in blocks))


def _column_blocks(table: EmbeddingTable, world_size: int, first: int) -> TablePlan:
    """Blocks of columns, dealt to the ranks in turn from rank `first` on."""
    columns, rows = physical_dim(table), table.num_embeddings
    width = column_width(columns, world_size)
    blocks = [(start, min(width, columns - start)) for start in range(0, columns, width)]
    shards = (ShardPlan((first + i) % world_size, 0, start, rows, wide) for i, (start, wide) in enumerate(blocks))
    return TablePlan(table, "column_wise", tuple(shards))


# ---------------------------------------------------------------- what is chosen


def _spread(tables: Mapping[str, EmbeddingTable], topology: Topology) -> dict[str, TablePlan]:
    """TorchRec's choice among what is allowed; where it finds none, all that may go row-wise does."""
    if not tables:
        return {}
    ranks = topology.world_size
    share = sum(table_bytes(t) for t in tables.values()) / ranks
    spreadable = {n for n, t in tables.items() if t.placement is None and _has_row_blocks(t, ranks)}
    large = {n for n in spreadable if table_bytes(tables[n]) > max(share / 2, _SPREAD_BYTES) or len(tables) < ranks}
    try:
        found = _torchrec_plan(tables, large, topology)
    except PlannerError:
        return _balanced(tables, spreadable, ranks)
    found = _in_runs(found, topology)
    return found if _peak(found, ranks) <= topology.memory_per_rank else _balanced(tables, spreadable, ranks)


def _peak(plans: Mapping[str, TablePlan], ranks: int) -> int:
    return max(sum(p.bytes_on(r) for p in plans.values()) for r in range(ranks))


def _in_runs(plans: Mapping[str, TablePlan], topology: Topology) -> dict[str, TablePlan]:
    """The whole tables dealt to the ranks in runs of their order, where that fits and is as even as TorchRec's dealing.

    Vectors then come back from the ranks in the order in which the tower reads them, which spares it a copy.
    """
    ranks = topology.world_size
    work = {n: _ROW_WORK + physical_dim(p.table) for n, p in plans.items() if p.placement == "table_wise"}
    share, before = sum(work.values()) / ranks, 0.0
    dealt = dict(plans)
    for name, mine in work.items():
        dealt[name] = _whole_table(plans[name].table, min(ranks - 1, int((before + mine / 2) / share)))
        before += mine

    def most(some: Mapping[str, TablePlan]) -> int:
        return max(sum(w for n, w in work.items() if some[n].shards[0].rank == r) for r in range(ranks))

    even = most(dealt) <= 1.1 * most(plans)
    return dealt if even and _peak(dealt, ranks) <= topology.memory_per_rank else dict(plans)


def _torchrec_plan(tables: Mapping[str, EmbeddingTable], large: set[str], topology: Topology) -> dict[str, TablePlan]:
    """Table-wise, or for `large` ones row-wise where that costs less. Raises PlannerError where it does not fit."""
    configs = [
        EmbeddingBagConfig(
            name=module_name(t.name),
            num_embeddings=t.num_embeddings,
            embedding_dim=physical_dim(t),
            feature_names=[module_name(t.name)],
        )
        for t in tables.values()
    ]
    module = torch.nn.ModuleDict({"tables": EmbeddingBagCollection(tables=configs, device=torch.device("meta"))})
    constraints = {
        module_name(t.name): ParameterConstraints(
            sharding_types=["table_wise", "row_wise"] if n in large else ["table_wise"], compute_kernels=["fused"]
        )
        for n, t in tables.items()
    }
    with _quiet_torchrec():
        planner = EmbeddingShardingPlanner(
            topology=_torchrec_topology(topology),
            constraints=constraints,
            storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        )
        chosen = planner.plan(module, [BagSharder()]).plan["tables"]
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


def _balanced(tables: Mapping[str, EmbeddingTable], spreadable: set[str], world_size: int) -> dict[str, TablePlan]:
    """The placement of least peak memory: rows spread where allowed, whole tables on the emptiest rank, large first."""
    found = {n: _row_blocks(tables[n], world_size) for n in tables if n in spreadable}
    load = [sum(p.bytes_on(r) for p in found.values()) for r in range(world_size)]
    for name in sorted(tables.keys() - spreadable, key=lambda n: (-table_bytes(tables[n]), n)):
        rank = load.index(min(load))
        found[name] = _whole_table(tables[name], rank)
        load[rank] += table_bytes(tables[name])
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


def _check_decided(plans: Mapping[str, TablePlan], topology: Topology) -> None:
    """Raises PlanError where what was asked for leaves no memory, before the rest is planned."""
    _check_memory(
        Plan(dict(plans), topology.world_size, topology.local_world_size, topology.device, topology.memory_per_rank)
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
    total, there = sum(table_bytes(p.table) for p in plan.tables.values()), plan.memory_per_rank * plan.world_size
    remedy = _REMEDY
    whole = [p for p in largest if p.placement != "row_wise" and plan.world_size > 1]
    if total <= there and whole:
        remedy = f"place {whole[0].name!r} row_wise"
    raise PlanError(
        f"not enough memory: the tables need {readable(held[rank])} on rank {rank} and there are "
        f"{readable(plan.memory_per_rank)}, {short:,} bytes short; largest there: {named}; {remedy}"
    )
