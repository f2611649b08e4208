"""Which tables are spread by rows, and who gets the others whole: by the estimate of `cost.py`.

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
    """The placement of the cheapest step among those that fit; None: none does.

    tables: those to place; spreadable: those of them that may go row-wise; topology: with the memory left for them
    """
    workload = Workload(inputs, SAMPLES_PER_RANK * topology.world_size)
    found = [(_seconds(plans, topology, workload), plans) for plans in _candidates(tables, spreadable, topology)]
    return min(found, key=lambda each: each[0])[1] if found else None


def _seconds(plans: dict[str, TablePlan], topology: Topology, workload: Workload) -> float:
    where = (topology.world_size, topology.local_world_size, topology.device, topology.memory_per_rank)
    return estimate_step(Plan(plans, *where), topology, workload).seconds


def _candidates(
    tables: Mapping[str, EmbeddingTable], spreadable: set[str], topology: Topology
) -> Iterator[dict[str, TablePlan]]:
    """None of the tables row-wise, the largest 1, 2, 4, ..., all but 1, 2, 4, ..., and all; those that fit."""
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
    """Whole tables to the ranks of least work that have room for them; None: one found no room."""
    held = bytes_per_rank(rows.values(), topology.world_size)
    if held and max(held) > topology.memory_per_rank:
        return None
    size = {n: table_bytes(t) for n, t in tables.items()}
    work = {n: ROW_WORK + physical_dim(t) for n, t in tables.items()}
    load = [0] * topology.world_size
    found = {}
    for name in sorted(tables, key=lambda n: (-work[n], -size[n], n)):
        room = [r for r, taken in enumerate(held) if taken + size[name] <= topology.memory_per_rank]
        if not room:
            return None
        rank = min(room, key=lambda r: (load[r], held[r]))
        found[name] = whole_table(tables[name], rank)
        load[rank] += work[name]
        held[rank] += size[name]
    return found
