"""The planner gives tables the run file's placements, and the others what costs least on a topology.

Pure arithmetic on every rank alike: nothing is allocated and no process group is needed, so that `shardrec plan`
works on one machine for any other.

- One rank: everything is table-wise, whatever was asked; the placements are the same thing there.
- Tables that every step updates as a whole (`decay: table`) are data-parallel, on one rank too.
- Tables outside of device memory go row-wise, unless another placement is asked.
- Row-wise needs a row for every rank's equal block and column-wise more than four columns; tables too small for what
  was asked are placed table-wise. Column blocks are dealt to the ranks in turn.
- What is left to choose: which tables go row-wise and who gets the others whole, by the estimate of a step
  (`spread.py`), hence by the topology's rates. Where no plan is found that fits, all tables that may go row-wise do.
  Column-wise and data-parallel are never chosen: `docs/placements.md` has the measurements.
"""

from collections.abc import Mapping
from dataclasses import replace

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import Input
from shardrec.models.table_reads import declared_tables, sequence_tables
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.fit import PlanError, check_host_memory, check_memory
from shardrec.sharding.planning.placements import (
    CUT_COLUMNS,
    OF_HOSTS,
    asked_placement,
    column_blocks,
    decays_whole,
    grid_blocks,
    has_row_blocks,
    host_row_blocks,
    replicas,
    row_blocks,
    whole_table,
)
from shardrec.sharding.planning.plan import Plan, TablePlan, bytes_per_rank, id_map_share, table_bytes
from shardrec.sharding.planning.row_memory import check_row_memory, described_memory
from shardrec.sharding.planning.spread import spread_by_cost, work_of
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.updates.choose import check_table

__all__ = ["PlanError", "plan_tables"]


def plan_tables(inputs: Mapping[str, Input], optimizer: TableOptimizer, topology: Topology) -> Plan:
    """Returns where each table of the inputs goes; `optimizer` is for tables that name none.

    Raises PlanError where the tables do not fit, UserError for a table that cannot be trained, for column-wise
    row-wise AdaGrad and for `decay: table` where a table is not data-parallel.
    """
    tables = declared_tables(inputs, optimizer)
    for table in tables.values():
        check_table(table)
        check_row_memory(table)
        _check_placement(table)
    tables, notes = _of_one_memory(tables) if topology.device == "cpu" else (tables, ())
    tables, of_sequences = _of_pooled_tables(tables, inputs, topology)
    notes = (*notes, *of_sequences, *_of_unlike_hosts(tables, topology))
    ranks = topology.world_size
    plans = _asked(tables, topology)
    taken = id_map_share(tables.values(), ranks) + _peak(plans, ranks)
    left = replace(topology, memory_per_rank=topology.memory_per_rank - taken)
    plans |= _spread({n: t for n, t in tables.items() if n not in plans}, inputs, left)
    check_memory(tables, plans, topology)
    check_host_memory(plans, topology)
    return Plan(
        {n: plans[n] for n in tables},
        topology.world_size,
        topology.local_world_size,
        topology.device,
        topology.memory_per_rank,
        notes,
        topology.exchange,
    )


# ---------------------------------------------------------------- what is asked


def _asked(tables: Mapping[str, EmbeddingTable], topology: Topology) -> dict[str, TablePlan]:
    """Returns the plans of tables whose placement is no choice, but for whole ones, of which the rank is one."""
    ranks = topology.world_size
    plans: dict[str, TablePlan] = {}
    of_hosts: dict[str, EmbeddingTable] = {}
    for i, table in enumerate(tables.values()):
        placement = asked_placement(table, topology)
        if placement == "data_parallel" and (ranks > 1 or decays_whole(table)):
            plans[table.name] = replicas(table, ranks)
        elif ranks == 1:
            plans[table.name] = whole_table(table, 0)
        elif placement == "row_wise":
            plans[table.name] = row_blocks(table, ranks)
        elif placement == "column_wise":
            plans[table.name] = column_blocks(table, ranks, first=i)
        elif placement == "grid":
            plans[table.name] = grid_blocks(table, topology, first=i)
        elif placement == "table_row_wise":
            of_hosts[table.name] = table
    load = [0] * topology.hosts
    for name in sorted(of_hosts, key=lambda n: (-table_bytes(tables[n]), n)):
        host = load.index(min(load))
        plans[name] = host_row_blocks(tables[name], topology, host)
        load[host] += table_bytes(tables[name])
    return plans


def _of_pooled_tables(
    tables: Mapping[str, EmbeddingTable], inputs: Mapping[str, Input], topology: Topology
) -> tuple[dict[str, EmbeddingTable], tuple[str, ...]]:
    """Returns the tables with placements that theirs can have, as they are read, and what to say of the others."""
    sequential = sequence_tables(inputs)
    changed = {n: t for n, t in tables.items() if n in sequential and t.placement in OF_HOSTS}
    kept = dict(tables) | {n: replace(t, placement="row_wise") for n, t in changed.items()}
    if not changed or not topology.several_alike:
        return kept, ()
    names = ", ".join(f"{name}: {table.placement}" for name, table in changed.items())
    return kept, (f"tables that are read as sequences are row_wise instead, as only pooled ones can be so ({names})",)


def _of_unlike_hosts(tables: Mapping[str, EmbeddingTable], topology: Topology) -> tuple[str, ...]:
    """Returns what to say of tables that were to be cut within hosts, where these have unequal numbers of ranks."""
    names = ", ".join(f"{n}: {t.placement}" for n, t in tables.items() if t.placement in OF_HOSTS)
    if not names or topology.hosts == 1 or topology.several_alike:
        return ()
    local, ranks = topology.local_world_size, topology.world_size
    return (f"hosts have unequal numbers of ranks ({ranks} in all, up to {local} a host): row_wise instead ({names})",)


def _of_one_memory(tables: Mapping[str, EmbeddingTable]) -> tuple[dict[str, EmbeddingTable], tuple[str, ...]]:
    """Returns the tables as CPU workers have them, and what to say of those that were to lie elsewhere."""
    elsewhere = [f"{t.name}: {described_memory(t)}" for t in tables.values() if t.memory != "device"]
    notes = (f"memory is for GPUs and changes nothing on cpu ({', '.join(elsewhere)})",) if elsewhere else ()
    return {name: replace(table, memory="device") for name, table in tables.items()}, notes


def _check_placement(table: EmbeddingTable) -> None:
    assert table.optimizer is not None
    if table.placement in CUT_COLUMNS and table.optimizer.name == "rowwise_adagrad":
        raise UserError(
            f"table {table.name!r}: {table.placement} with rowwise_adagrad is another algorithm (each column shard "
            "would keep a mean of its own columns' gradients only, so results would depend on the plan); choose "
            "optimizer adagrad or sgd, or placement row_wise or table_wise"
        )
    if decays_whole(table) and table.placement not in (None, "data_parallel"):
        raise UserError(
            f"table {table.name!r}: decay: table updates all rows in every step, which only data_parallel tables can, "
            f"but its placement is {table.placement}; choose data_parallel, or decay: batch"
        )


# ---------------------------------------------------------------- what is chosen


def _spread(
    tables: Mapping[str, EmbeddingTable], inputs: Mapping[str, Input], topology: Topology
) -> dict[str, TablePlan]:
    """Returns the cheapest plans of what is allowed; where none fit, all that may go row-wise does.

    topology: with the memory left beside id maps and what is placed already, which may be less than nothing.
    """
    if not tables:
        return {}
    ranks = topology.world_size
    spreadable = {n for n, t in tables.items() if t.placement is None and has_row_blocks(t, ranks)}
    bound = {n for n, t in tables.items() if t.placement is not None}
    cheapest = spread_by_cost(tables, bound, inputs, topology)
    if cheapest is not None:
        cheapest = _in_runs(cheapest, topology)
        if _peak(cheapest, ranks) <= topology.memory_per_rank:
            return cheapest
    return _balanced(tables, spreadable, ranks)


def _peak(plans: Mapping[str, TablePlan], ranks: int) -> int:
    return max(bytes_per_rank(plans.values(), ranks))


def _in_runs(plans: Mapping[str, TablePlan], topology: Topology) -> dict[str, TablePlan]:
    """Deals the whole tables to the ranks in runs of their order, where that fits and is as even as `plans`.

    Vectors then come back from the ranks in the order in which the tower reads them, which spares it a copy.
    """
    ranks = topology.world_size
    work = {n: work_of(p.table) for n, p in plans.items() if p.placement == "table_wise"}
    share, before = sum(work.values()) / ranks, 0.0
    dealt = dict(plans)
    for name, mine in work.items():
        dealt[name] = whole_table(plans[name].table, min(ranks - 1, int((before + mine / 2) / share)))
        before += mine

    def most(some: Mapping[str, TablePlan]) -> int:
        of_rank = [0] * ranks
        for name, mine in work.items():
            of_rank[some[name].shards[0].rank] += mine
        return max(of_rank)

    even = most(dealt) <= 1.1 * most(plans)
    return dealt if even and _peak(dealt, ranks) <= topology.memory_per_rank else dict(plans)


def _balanced(tables: Mapping[str, EmbeddingTable], spreadable: set[str], world_size: int) -> dict[str, TablePlan]:
    """Places for least peak memory: rows spread where allowed, whole tables on the emptiest rank, large first."""
    plans = {n: row_blocks(tables[n], world_size) for n in tables if n in spreadable}
    load = bytes_per_rank(plans.values(), world_size)
    for name in sorted(tables.keys() - spreadable, key=lambda n: (-table_bytes(tables[n]), n)):
        rank = load.index(min(load))
        plans[name] = whole_table(tables[name], rank)
        load[rank] += table_bytes(tables[name])
    return plans
