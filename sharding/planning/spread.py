"""The estimate of `cost.py` says which tables are spread by rows, and who gets the others whole.

A table is spread or whole, the largest ones are spread first, and only how many of them is searched: over all ranks,
some twenty plans, and on several hosts then how many further ones over the ranks of a host, or in columns over hosts,
some forty more each. Every plan is estimated as a whole. (TorchRec's planner weighs each shard of each table, though
row-wise ones are all alike.)
"""

from collections.abc import Mapping, Sequence

from shardrec.models.inputs import Input
from shardrec.models.table_reads import sequence_tables
from shardrec.models.table_settings import Placement
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.cost import Workload, estimate_step
from shardrec.sharding.planning.placements import (
    cuts_columns,
    grid_blocks,
    has_row_blocks,
    host_row_blocks,
    row_blocks,
    whole_table,
)
from shardrec.sharding.planning.plan import Plan, TablePlan, bytes_per_rank, table_bytes
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import physical_dim

ROW_WORK = 16  # what finding a row costs beside reading it, in columns
SAMPLES_PER_RANK = 512  # of the step that is estimated, each feature with one id: as TorchRec's planner has it


def spread_by_cost(
    tables: Mapping[str, EmbeddingTable],
    bound: set[str],
    inputs: Mapping[str, Input],
    topology: Topology,
) -> dict[str, TablePlan] | None:
    """Returns the plans of the cheapest step among those that fit; None: none do.

    tables: those to place. bound: those of them that are to stay whole. topology: with the memory left for them.
    """
    workload = Workload(inputs, SAMPLES_PER_RANK * topology.world_size)
    found: list[tuple[float, int, dict[str, TablePlan]]] = []

    def try_out(first: int, then: int, form: Placement) -> None:
        spread = _spread_tables([tables[n] for n in by_size], (first, then), form, sequential, topology)
        dealt = _dealt({n: t for n, t in tables.items() if n not in spread}, spread, topology)
        if dealt is not None:
            plans = {n: spread.get(n) or dealt[n] for n in tables}
            found.append((_seconds(plans, topology, workload), first, plans))

    sequential = sequence_tables(inputs)
    by_size = [n for n in tables if n not in bound and has_row_blocks(tables[n], topology.local_world_size)]
    by_size.sort(key=lambda n: (-table_bytes(tables[n]), n))
    counts = _counts(sum(has_row_blocks(tables[n], topology.world_size) for n in by_size))
    for count in counts:
        try_out(count, count, "row_wise")
    firsts = {0} | {min(found, key=lambda each: each[0])[1] for _ in found[:1]}
    for form in _forms([tables[n] for n in by_size if n not in sequential], topology):
        for first in firsts:
            for then in _counts(len(by_size)):
                if then > first:
                    try_out(first, then, form)
    return min(found, key=lambda each: each[0])[2] if found else None


def _counts(tables: int) -> list[int]:
    """Returns 0, 1, 2, 4, ..., all but 1, 2, 4, ..., and all."""
    few = {0} | {1 << i for i in range(tables.bit_length())}
    return sorted(count for count in few | {tables - c for c in few} if 0 <= count <= tables)


def _forms(pooled: Sequence[EmbeddingTable], topology: Topology) -> list[Placement]:
    """Returns the placements within hosts that are worth trying."""
    if not pooled or not topology.several_alike or topology.local_world_size == 1:
        return []
    return ["table_row_wise", *(["grid"] if any(map(cuts_columns, pooled)) else [])]  # type: ignore[list-item]


def _seconds(plans: dict[str, TablePlan], topology: Topology, workload: Workload) -> float:
    where = (topology.world_size, topology.local_world_size, topology.device, topology.memory_per_rank)
    return estimate_step(Plan(plans, *where), topology, workload).seconds


def _spread_tables(
    tables: Sequence[EmbeddingTable], counts: tuple[int, int], form: Placement, sequential: set[str], topology: Topology
) -> dict[str, TablePlan]:
    """Spreads the first of some tables over all ranks and further ones by `form`, where they can be so and fit.

    counts: how many are to be spread over all ranks, and how many in all.
    """
    plans: dict[str, TablePlan] = {}
    taken, load = [0] * topology.hosts, [0] * topology.hosts  # of each rank there
    for i, table in enumerate(tables[: counts[1]]):
        over_all = has_row_blocks(table, topology.world_size)
        planned = row_blocks(table, topology.world_size) if over_all else None
        if form != "row_wise" and table.name not in sequential and not (over_all and i < counts[0]):
            host = min(range(topology.hosts), key=lambda h: (load[h], taken[h]))
            within = host_row_blocks(table, topology, host)
            if form == "grid" and cuts_columns(table):
                planned = grid_blocks(table, topology, first=i)
            elif taken[host] + within.largest_shard <= topology.memory_per_rank:
                planned = within
                load[host] += work_of(table)
        if planned is not None:
            plans[table.name] = planned
            taken = [size + planned.bytes_on(topology.ranks_of(host)[0]) for host, size in enumerate(taken)]
    return plans


def work_of(table: EmbeddingTable) -> int:
    """Returns what a lookup in a table costs whoever has it whole, in columns."""
    return ROW_WORK + physical_dim(table)


def _dealt(
    tables: Mapping[str, EmbeddingTable], rows: Mapping[str, TablePlan], topology: Topology
) -> dict[str, TablePlan] | None:
    """Deals whole tables to the ranks of least work that have room for them; None: one found no room."""
    taken = bytes_per_rank(rows.values(), topology.world_size)
    if taken and max(taken) > topology.memory_per_rank:
        return None
    size = {n: table_bytes(t) for n, t in tables.items()}
    work = {n: work_of(t) for n, t in tables.items()}
    load = [0.0] * topology.world_size
    for planned in rows.values():
        for shard in planned.shards if planned.placement == "table_row_wise" else ():
            load[shard.rank] += work_of(planned.table) / len(planned.shards)
    plans = {}
    for name in sorted(tables, key=lambda n: (-work[n], -size[n], n)):
        room = [r for r, bytes_there in enumerate(taken) if bytes_there + size[name] <= topology.memory_per_rank]
        if not room:
            return None
        rank = min(room, key=lambda r: (load[r], taken[r]))
        plans[name] = whole_table(tables[name], rank)
        load[rank] += work[name]
        taken[rank] += size[name]
    return plans
