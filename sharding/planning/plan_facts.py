"""Plan facts are a plan in numbers that JSON can hold, small for any number of ranks: what a report draws of it."""

from typing import Any

from shardrec.sharding.planning.plan import Plan, TablePlan


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Returns the bytes of each rank by placement, and a line of numbers for each table.

    bytes_per_rank: placement (and `id maps`) -> bytes on each rank, without those in the memory of GPUs' hosts, which
    `host_bytes` has by host. tables: `shards` are rectangles, `bytes` those of all of them.
    """
    by_placement: dict[str, list[int]] = {}
    for table in plan.tables.values():
        sizes = by_placement.setdefault(table.placement, [0] * plan.world_size)
        for rank, size in table.bytes_by_rank.items():
            sizes[rank] += size
    if plan.id_map_bytes:
        by_placement["id maps"] = [plan.id_map_bytes] * plan.world_size
    return {
        "world_size": plan.world_size,
        "device": plan.device,
        "memory_per_rank": plan.memory_per_rank,
        "bytes_per_rank": by_placement,
        "host_bytes": list(plan.host_bytes),
        "tables": [_table_facts(table) for table in plan.tables.values()],
        "notes": list(plan.notes),
    }


def _table_facts(plan: TablePlan) -> dict[str, Any]:
    table = plan.table
    assert table.optimizer is not None
    return {
        "name": table.name,
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "dtype": table.dtype,
        "optimizer": table.optimizer.name,
        "placement": plan.placement,
        "shards": len(plan.shards),
        "ranks": len(plan.bytes_by_rank),
        "bytes": sum(plan.bytes_by_rank.values()),
        "host_bytes": sum(plan.host_bytes_by_rank.values()),
        "dynamic": table.dynamic is not None,
    }
