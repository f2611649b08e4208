"""Advice is changes to the run file that would shorten an estimated step, each planned and estimated like the run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import Input
from shardrec.models.table_reads import sequence_tables, with_tables
from shardrec.models.table_settings import Placement, TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.cost import GRADIENTS, LOOKUP, UPDATE, VECTORS, Estimate, Workload, estimate_step
from shardrec.sharding.planning.placements import OF_HOSTS, asked_placement
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology

WORTH = 0.05  # of the step's time, or of the rate: less is within what the estimate cannot tell
_TABLES = 3  # of the bottleneck, of which other placements are tried


@dataclass(frozen=True)
class Change:
    """A change has a name, the step that it would come to, and the fullest rank's bytes of tables under it."""

    name: str
    seconds: float
    samples_per_second: float
    most_bytes: int


def worthwhile_changes(
    plan: Plan,
    topology: Topology,
    workload: Workload,
    optimizer: TableOptimizer,
    estimate: Estimate,
    faster_products: Mapping[str, float] | None = None,
) -> list[Change]:
    """Returns changes that fit and raise the estimated rate by more than `WORTH`, the best first.

    faster_products: what to set -> FLOP/s that dense compute then has.
    """
    changes = []
    for name, inputs, batch, machines in _candidates(plan, topology, workload, estimate, faster_products or {}):
        try:
            planned = plan_tables(inputs, optimizer, machines)
        except UserError:  # does not fit, or not with the table's optimizer
            continue
        changed = estimate_step(planned, machines, replace(workload, inputs=inputs, global_batch_size=batch))
        if changed.samples_per_second > (1 + WORTH) * estimate.samples_per_second:
            changes.append(Change(name, changed.seconds, changed.samples_per_second, max(planned.bytes_per_rank)))
    return sorted(changes, key=lambda change: -change.samples_per_second)


def _candidates(
    plan: Plan, topology: Topology, workload: Workload, estimate: Estimate, faster: Mapping[str, float]
) -> Iterator[tuple[str, Mapping[str, Input], int, Topology]]:
    """Yields (what to change, inputs, global batch size, topology)."""
    inputs, batch = workload.inputs, workload.global_batch_size
    slow, sequential = estimate.bottleneck, sequence_tables(inputs)
    for name in slow.leading(_TABLES) if topology.world_size > 1 else ():
        planned = plan.tables[name]
        for placement in get_args(Placement):
            placed = replace(planned.table, placement=placement)
            if name in sequential and placement in OF_HOSTS:
                continue
            if placement != planned.placement and asked_placement(placed, topology) == placement:
                yield f"place {name!r} {placement}", _placed(inputs, {name: placement}), batch, topology
    alike: tuple[Placement, ...] = ("table_wise", "row_wise", *(("table_row_wise",) if topology.several_alike else ()))
    for placement in alike if topology.world_size > 1 else ():
        others = [n for n, p in plan.tables.items() if p.placement not in (placement, "data_parallel")]
        if len(others) > 1:
            yield f"place all tables {placement}", _placed(inputs, dict.fromkeys(others, placement)), batch, topology
    if slow.name in (LOOKUP, UPDATE):
        yield "dtype fp16 for all tables", with_tables(inputs, _half), batch, topology
    if slow.name in (VECTORS, GRADIENTS) and topology.exchange == "fp32":
        yield "trainer.exchange bf16", inputs, batch, replace(topology, exchange="bf16")
    yield f"global_batch_size {2 * batch:,}", inputs, 2 * batch, topology
    for setting, flops in faster.items():
        yield setting, inputs, batch, replace(topology, dense_flops=flops)


def _placed(inputs: Mapping[str, Input], placements: Mapping[str, Placement]) -> dict[str, Input]:
    return with_tables(inputs, lambda t: replace(t, placement=placements[t.name]) if t.name in placements else t)


def _half(table: EmbeddingTable) -> EmbeddingTable:
    return replace(table, dtype="fp16")
