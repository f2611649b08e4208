"""The estimate of `cost.py` says which tables are spread by rows, and who gets the others whole.

A table is row-wise or whole, the largest ones are row-wise first, and only how many of them is searched: some twenty
plans, each estimated as a whole, 0.1 s of one core for 50 tables on 128 ranks, 1.1 s for 200. (TorchRec's planner
weighs each shard of each table, though row-wise ones are all alike: 9 and 28 s.)
"""

from collections.abc import Iterator, Mapping

from shardrec.models.inputs import Input
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.cost import Workload, estimate_step
from shardrec.sharding.planning.placements import row_blocks, whole_table
from shardrec.sharding.planning.plan import Plan, TablePlan, bytes_per_rank, table_bytes
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import physical_dim

ROW_WORK = 16  # what finding a row costs beside reading it, in columns
SAMPLES_PER_RANK = 512  # of the step that is estimated, each feature with one id: as TorchRec's planner has it


def spread_by_cost(
    tables: Mapping[str, EmbeddingTable],
    spreadable: set[str],
    inputs: Mapping[str, Input],
    topology: Topology,
) -> dict[str, TablePlan] | None:
    """Returns the plans of the cheapest step among those that fit; None: none do.

    tables: those to place. spreadable: those of them that may go row-wise. topology: with the memory left for them.
    """
    workload = Workload(inputs, SAMPLES_PER_RANK * topology.world_size)
    candidates = list(_candidates(tables, spreadable, topology))
    return min(candidates, key=lambda plans: _seconds(plans, topology, workload)) if candidates else None


def _seconds(plans: dict[str, TablePlan], topology: Topology, workload: Workload) -> float:
    where = (topology.world_size, topology.local_world_size, topology.device, topology.memory_per_rank)
    return estimate_step(Plan(plans, *where), topology, workload).seconds


def _candidates(
    tables: Mapping[str, EmbeddingTable], spreadable: set[str], topology: Topology
) -> Iterator[dict[str, TablePlan]]:
    """Yields plans that fit: none of the tables row-wise, the largest 1, 2, 4, ..., all but 1, 2, 4, ..., and all."""
    by_size = sorted(spreadable, key=lambda n: (-table_bytes(tables[n]), n))
    few = {0} | {1 << i for i in range(len(by_size).bit_length())}
    counts = few | {len(by_size) - count for count in few}
    for count in sorted(c for c in counts if 0 <= c <= len(by_size)):
        rows = {n: row_blocks(tables[n], topology.world_size) for n in by_size[:count]}
        dealt = _dealt({n: t for n, t in tables.items() if n not in rows}, rows, topology)
        if dealt is not None:
            yield {n: rows.get(n) or dealt[n] for n in tables}


def _dealt(
    tables: Mapping[str, EmbeddingTable], rows: Mapping[str, TablePlan], topology: Topology
) -> dict[str, TablePlan] | None:
    """Deals whole tables to the ranks of least work that have room for them; None: one found no room."""
    taken = bytes_per_rank(rows.values(), topology.world_size)
    if taken and max(taken) > topology.memory_per_rank:
        return None
    size = {n: table_bytes(t) for n, t in tables.items()}
    work = {n: ROW_WORK + physical_dim(t) for n, t in tables.items()}
    load = [0] * topology.world_size
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
