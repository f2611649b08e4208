"""Tables that do not fit into memory are refused in one line, which says what would make them fit.

What a remedy would come to is worked out by arithmetic, without planning: every table that may go row-wise does, and
whole ones go to the emptiest rank, which is what the planner falls back to where nothing else fits. Id maps of dynamic
tables are counted wherever tables are.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError, printable
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.placements import (
    CUT_COLUMNS,
    asked_placement,
    column_blocks,
    decays_whole,
    grid_blocks,
    has_row_blocks,
)
from shardrec.sharding.planning.plan import TablePlan, bytes_per_rank, id_map_share, replica_bytes, table_bytes
from shardrec.sharding.planning.row_memory import described_memory, device_bytes, may_lie_on_host, whole_host_bytes
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import physical_dim

MOST_RANKS = 1 << 14
"""Larger worlds are not looked at when one is sought that is large enough."""

_NAMED = 3  # tables that a line names
_EXACT_BELOW = 1 << 20  # bytes that are told to the last one

Tables = Mapping[str, EmbeddingTable]


class PlanError(UserError):
    """Tables do not fit; the one line says which, how much is short, and what to do."""


def check_memory(tables: Tables, plans: Mapping[str, TablePlan], topology: Topology) -> None:
    """Raises PlanError for the rank that is short of most.

    tables: all of the model, with their optimizers. plans: where each of them is.
    """
    ranks, memory = topology.world_size, topology.memory_per_rank
    maps = id_map_share(tables.values(), ranks)
    of_tables = bytes_per_rank(plans.values(), ranks)
    rank = max(range(ranks), key=of_tables.__getitem__)
    needed = of_tables[rank] + maps
    short = needed - memory
    if short <= 0:
        return
    on_rank = sorted((p for p in plans.values() if p.bytes_on(rank)), key=lambda p: -p.bytes_on(rank))
    contents = "tables and id maps" if maps else "tables"
    clauses = [
        f"not enough memory: rank {rank} would hold {readable(needed)} of {contents} and has {readable(memory)} for "
        f"them, {_exactly(short)} short",
        f"largest there: {', '.join(_largest(on_rank, rank, maps))}",
    ]
    total = sum(map(table_bytes, tables.values())) + id_map_share(tables.values(), 1)
    if total > memory * ranks and ranks > 1:
        clauses.append(f"all {contents} take {readable(total)} and all {ranks} ranks have {readable(memory * ranks)}")
    raise PlanError("; ".join([*clauses, _remedy(tables, [p.name for p in on_rank], topology)]))


def _largest(on_rank: Iterable[TablePlan], rank: int, maps: int) -> list[str]:
    """Names the largest of what a rank has, tables and `maps` bytes of id maps, and the sum of the others."""
    sizes = [(p.bytes_on(rank), f"{printable(p.name)} ({p.placement}, {readable(p.bytes_on(rank))})") for p in on_rank]
    sizes += [(maps, f"id maps ({readable(maps)})")] * bool(maps)
    sizes.sort(key=lambda each: -each[0])
    texts = [text for _, text in sizes[:_NAMED]]
    if rest := sizes[_NAMED:]:
        texts.append(f"{len(rest)} more ({readable(sum(size for size, _ in rest))})")
    return texts


def check_host_memory(plans: Mapping[str, TablePlan], topology: Topology) -> None:
    """Raises PlanError for the host whose memory is short of most, of rows that GPUs read there."""
    local = topology.local_world_size
    by_host = [0] * topology.hosts
    for planned in plans.values():
        for rank, size in planned.host_bytes_by_rank.items():
            by_host[rank // local] += size
    needed = max(by_host)
    if not needed:
        return
    tables = sorted((p.table for p in plans.values()), key=whole_host_bytes, reverse=True)
    largest = ", ".join(f"{t.name} ({described_memory(t)})" for t in tables[:_NAMED] if whole_host_bytes(t))
    if topology.host_memory is None:
        raise PlanError(
            f"tables lie in host memory, {readable(needed)} of them on a host, and it is not said how much there is: "
            f"{largest}; give --host-memory, or set their memory: device"
        )
    if (short := needed - topology.host_memory) > 0:
        raise PlanError(
            f"not enough host memory: host {by_host.index(needed)} would hold {readable(needed)} of tables and has "
            f"{readable(topology.host_memory)} for them, {_exactly(short)} short; largest: {largest}; use more hosts, "
            "dtype fp16, or fewer tables outside of device memory"
        )


def _exactly(count: int) -> str:
    return f"{count:,} bytes" if count < _EXACT_BELOW else readable(count)


# ---------------------------------------------------------------- what would fit


def least_peak(tables: Tables, topology: Topology) -> int:
    """Returns the bytes on the fullest rank, with its share of id maps, if all rows are spread that may be."""
    ranks = topology.world_size
    taken, spread, whole = id_map_share(tables.values(), ranks), 0, []
    columns, of_hosts = [0] * ranks, list[int]()
    for i, table in enumerate(tables.values()):
        placement = asked_placement(table, topology)
        if placement == "data_parallel" and (ranks > 1 or decays_whole(table)):
            taken += replica_bytes(table)
        elif placement == "column_wise" and ranks > 1:
            for rank, size in column_blocks(table, ranks, first=i).bytes_by_rank.items():
                columns[rank] += size
        elif placement == "grid":
            for rank, size in grid_blocks(table, topology, first=i).bytes_by_rank.items():
                columns[rank] += size
        elif placement == "table_row_wise":
            block = -(-table.num_embeddings // topology.local_world_size)
            of_hosts.append(device_bytes(table, block, physical_dim(table)))
        elif placement == "row_wise" or (placement is None and has_row_blocks(table, ranks)):
            spread += device_bytes(table, -(-table.num_embeddings // ranks), physical_dim(table))
        else:
            whole.append(table_bytes(table))
    return taken + max(columns) + spread + _fullest(whole, ranks) + _fullest(of_hosts, topology.hosts)


def _fullest(sizes: Iterable[int], places: int) -> int:
    """Returns what the fullest place has, of ranks or hosts, if the emptiest one is given each in turn."""
    loads = [0] * places
    for size in sorted(sizes, reverse=True):
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)


def fewest_hosts(tables: Tables, topology: Topology) -> int | None:
    """Returns how many hosts like the topology's the tables fit on; None: on none up to `MOST_RANKS` ranks."""
    on_hosts = sum(map(whole_host_bytes, tables.values()))

    def fits(hosts: int) -> bool:
        larger = replace(topology, world_size=hosts * topology.local_world_size)
        on_ranks = least_peak(tables, larger) <= topology.memory_per_rank
        return on_ranks and (topology.host_memory is None or on_hosts <= hosts * topology.host_memory)

    enough = 1
    while not fits(enough):
        enough *= 2
        if enough * topology.local_world_size > MOST_RANKS:
            return None
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if fits(middle) else (middle, enough)
    return enough


def _remedy(tables: Tables, on_rank: list[str], topology: Topology) -> str:
    """Says what each alone would make the tables fit; where nothing would, what comes closest."""
    freed, placing = _freed(tables, on_rank, topology)
    remedies = [placing] if placing and _fits(freed, topology) else []
    if hosts := fewest_hosts(tables, topology):
        remedies.append(_hosts(hosts, topology))
    remedies += _lighter(tables, topology) + _offloaded(tables, on_rank, topology)
    if remedies:
        return f"would fit: {', or '.join(remedies)}"
    hosts = fewest_hosts(freed, topology)
    if placing and hosts:
        return f"would fit: {placing} and use {_hosts(hosts, topology)}"
    lighter = next((name for change, name in _LIGHTER if placing and _fits(_all(freed, change), topology)), None)
    if lighter:
        return f"would fit: {placing} and {lighter}"
    return "use fewer rows or columns"


def _fits(tables: Tables, topology: Topology) -> bool:
    return least_peak(tables, topology) <= topology.memory_per_rank


def _hosts(count: int, topology: Topology) -> str:
    local = topology.local_world_size
    return f"{count:,} hosts of {local} rank(s) each with as much memory"


def _freed(tables: Tables, on_rank: Iterable[str], topology: Topology) -> tuple[Tables, str]:
    """Returns the tables, row-wise instead of whole, in columns or everywhere as was asked; and the words for it.

    If one table is enough it is the largest of those on the rank, else all of them.
    """
    ranks = topology.world_size
    bound = [n for n in on_rank if decays_whole(tables[n]) or (ranks > 1 and _is_bound(tables[n], ranks))]
    others = [n for n in tables if n not in bound and ranks > 1 and _is_bound(tables[n], ranks)]
    for names in (bound[:1], bound, bound + others):
        changed = {**tables, **{n: _in_rows(tables[n]) for n in names}}
        if names and _fits(changed, topology):
            break
    batch = [repr(n) for n in names if decays_whole(tables[n])]
    rows = [repr(n) for n in names if not decays_whole(tables[n])]
    words = [f"decay: batch for {', '.join(batch)}"] * bool(batch) + [f"place {', '.join(rows)} row_wise"] * bool(rows)
    return changed, " and ".join(words)


def _is_bound(table: EmbeddingTable, ranks: int) -> bool:
    """Says whether a placement was asked for that keeps a table's rows together, though they could be parted."""
    return table.placement not in (None, "row_wise") and has_row_blocks(table, ranks)


def _in_rows(table: EmbeddingTable) -> EmbeddingTable:
    assert table.optimizer is not None
    if decays_whole(table):
        return replace(table, placement=None, optimizer=table.optimizer.model_copy(update={"decay": "batch"}))
    return replace(table, placement="row_wise")


def _half(table: EmbeddingTable) -> EmbeddingTable:
    assert table.optimizer is not None
    return table if table.optimizer.name == "ftrl" or table.frozen else replace(table, dtype="fp16")


def _rowwise(table: EmbeddingTable) -> EmbeddingTable:
    assert table.optimizer is not None
    if table.placement in CUT_COLUMNS or decays_whole(table) or table.frozen:
        return table
    rate = table.optimizer.learning_rate
    return replace(table, optimizer=type(table.optimizer)(name="rowwise_adagrad", learning_rate=rate))


_LIGHTER: tuple[tuple[Callable[[EmbeddingTable], EmbeddingTable], str], ...] = (
    (_half, "dtype fp16"),
    (_rowwise, "optimizer rowwise_adagrad"),
    (lambda table: _half(_rowwise(table)), "dtype fp16 with optimizer rowwise_adagrad"),
)


def _offloaded(tables: Tables, on_rank: Iterable[str], topology: Topology) -> list[str]:
    """Names host memory for the largest table of a rank that may lie there, if that is enough."""
    host_memory = (topology.host_memory or 0) * topology.hosts if topology.device == "cuda" else 0
    name = next((n for n in on_rank if may_lie_on_host(tables[n])), None)
    if name is None:
        return []
    for memory in ("cached", "managed"):
        table = replace(tables[name], memory=memory)
        changed = {**tables, name: table}
        if sum(map(whole_host_bytes, changed.values())) <= host_memory and _fits(changed, topology):
            return [f"memory: {memory} for {name!r}"]
    return []


def _all(tables: Tables, change: Callable[[EmbeddingTable], EmbeddingTable]) -> Tables:
    return {name: change(table) for name, table in tables.items()}


def _lighter(tables: Tables, topology: Topology) -> list[str]:
    """Names lighter rows that would fit; both kinds together only where neither is enough."""
    *single, both = [(name, _fits(_all(tables, change), topology)) for change, name in _LIGHTER]
    return [name for name, fits in single if fits] or [both[0]] * both[1]
