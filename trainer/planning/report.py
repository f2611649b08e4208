"""`shardrec plan` says where tables would live and, for machines that are described, what a step would take."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.features.vocabulary import check_vocabularies
from shardrec.models.base import Recommender
from shardrec.sharding.planning.advice import Change, worthwhile_changes
from shardrec.sharding.planning.cost import GROUPS, Estimate, PartEstimate, estimate_step
from shardrec.sharding.planning.fit import fewest_hosts
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.planning.chart import draw_memory
from shardrec.trainer.planning.machines import Machines, dense_flops, faster_products, matmul_kind
from shardrec.trainer.planning.workload import DescribedWorkload, workload_of
from shardrec.trainer.session.blueprint import build_model, needed
from shardrec.trainer.session.expected_workers import run_topology

_CHANGES = 3  # changes that are printed


@dataclass(frozen=True)
class PlannedRun:
    """A planned run is one run, or stage of a run, with its plan and what a step under it is estimated to take."""

    stage: str
    config: RunConfig
    model: Recommender
    plan: Plan
    topology: Topology
    elsewhere: bool
    reserve: int
    mean_length: float | None = None

    @cached_property
    def described(self) -> DescribedWorkload:
        """Returns what a step has to do, and what had to be assumed of it."""
        return workload_of(self.config, self.config.load_schema(), self.model, self.mean_length)

    @cached_property
    def estimate(self) -> Estimate:
        """Returns what a step is estimated to take."""
        return estimate_step(self.plan, self.topology, self.described.workload)

    @cached_property
    def changes(self) -> list[Change]:
        """Returns what would make the step shorter."""
        return worthwhile_changes(
            self.plan,
            self.topology,
            self.described.workload,
            self.config.optimizer.tables,
            self.estimate,
            faster_products(self.config, self.topology),
        )

    def report(self) -> str:
        """Returns what people read: the plan and, for machines that are described, the step."""
        if not self.elsewhere:
            return plan_text(self.plan)
        return "\n".join([plan_text(self.plan), *_step_lines(self)])

    def __str__(self) -> str:
        return self.report()

    def record(self) -> dict[str, Any]:
        """Returns all numbers, for a line of JSON; times are milliseconds, sizes bytes."""
        return _record(self)


def planned_runs(config: RunConfig, machines: Machines, mean_length: float | None = None) -> Iterator[PlannedRun]:
    """Yields the run, or each of its stages, planned for the machines asked about; no table is allocated.

    Raises UserError for options that contradict each other, PlanError where tables do not fit.
    """
    for name, stage in (resolve_stages(config) or {"": config}).items():
        schema = stage.load_schema()
        model = build_model(stage, schema)
        check_vocabularies(needed(stage, schema, model).features, stage.data.schema_folder)
        topology = machines.topology(stage) if machines.elsewhere else _topology_here(stage)
        plan = plan_tables(model.inputs, stage.optimizer.tables, topology)
        reserve = machines.reserved(topology.device)
        yield PlannedRun(name, stage, model, plan, topology, machines.elsewhere, reserve, mean_length)


def _topology_here(config: RunConfig) -> Topology:
    topology = run_topology(config)
    return replace(topology, dense_flops=dense_flops(config, topology.device))


# ---------------------------------------------------------------- for people


def _step_lines(run: PlannedRun) -> list[str]:
    estimate, topology = run.estimate, run.topology
    batch, several = estimate.global_batch_size, topology.world_size > 1
    lines = [
        f"estimated step of {batch:,} samples ({batch / topology.world_size:,.0f} a rank) on {topology.hosts} host(s) "
        f"of {topology.local_world_size} {topology.device} device(s): at least {_milliseconds(estimate.seconds)}, "
        f"at most {estimate.samples_per_second:,.0f} samples/s"
    ]
    for group, parts in GROUPS.items():
        seconds = estimate.group_seconds(group)
        lines.append(f"  {group:<24} {_milliseconds(seconds):>10}  {100 * seconds / estimate.seconds:3.0f} %")
        for part in (p for p in estimate.parts if p.name in parts and len(parts) > 1 and p.longest > 0):
            where = f"slowest on rank {part.slowest}" if several and _uneven(part) else ""
            lines.append(f"    {part.name:<22} {_milliseconds(part.longest):>10}         {where}".rstrip())
    lines += ["", f"bottleneck: {_bottleneck(run)}"]
    lines.append("what to change:" if run.changes else "what to change: nothing that was tried is more than 5 % faster")
    lines += [
        f"  {change.name}: {_milliseconds(change.seconds)}, {change.samples_per_second:,.0f} samples/s, "
        f"{readable(change.most_bytes)} of tables on the fullest rank"
        for change in run.changes[:_CHANGES]
    ]
    return [*lines, *_memory_lines(run), "", *_assumption_lines(run), ""]


def _uneven(part: PartEstimate) -> bool:
    return part.longest > 1.05 * float(part.seconds.min())


def _bottleneck(run: PlannedRun) -> str:
    """Says what takes most of the step, its longest part, where that is and of which tables."""
    estimate, part = run.estimate, run.estimate.bottleneck
    group, rank = estimate.slowest_group, part.slowest
    text = f"{group}, {100 * estimate.group_seconds(group) / estimate.seconds:.0f} % of the step"
    if len(GROUPS[group]) > 1:
        text += f"; longest: {part.name} ({100 * part.longest / estimate.seconds:.0f} %)"
    if part.traffic is not None:
        near, far = part.traffic.local_seconds(run.topology)[rank], part.traffic.far_seconds(run.topology)[rank]
        size = part.traffic.far_bytes if far >= near else part.traffic.local_bytes
        text += f", {'between hosts' if far >= near else 'within a host'}, {readable(int(size[rank]))} on rank {rank}"
    elif _uneven(part):
        text += f" on rank {rank}"
    if names := part.leading():
        text += ", of " + ", ".join(f"{n} ({run.plan.tables[n].placement})" for n in names)
    return text


def _memory_lines(run: PlannedRun) -> list[str]:
    """Says how much room is left: hosts that could be spared, and what a step's vectors take of their reserve."""
    hosts = fewest_hosts({name: planned.table for name, planned in run.plan.tables.items()}, run.topology)
    lines = []
    if hosts is not None and hosts < run.topology.hosts:
        lines.append(f"  fewer hosts: the tables fit on {hosts}")
    most = int(run.estimate.buffer_bytes.max())
    text = f"vectors and gradients of a step: up to {readable(most)} on a rank, beside tables"
    if 2 * most > run.reserve:
        text += (
            f"; that is much of the {readable(run.reserve)} kept for everything else: set a larger --reserve, or a "
            "smaller global_batch_size"
        )
    return [*lines, text]


def _assumption_lines(run: PlannedRun) -> list[str]:
    t = run.topology
    rates = f"{_rate(t.row_bandwidth)} of table rows, {_rate(t.local_bandwidth)} within a host, "
    flops = f"{t.dense_flops / 1e12:g} TFLOP/s ({matmul_kind(run.config, t.device)})"
    rates += f"{_rate(t.host_bandwidth)} between hosts, {flops}"
    if any(run.plan.host_bytes):
        rates += f", {_rate(t.bus_bandwidth)} of rows in a GPU's host"
    besides = ", admission of ids and filling of fresh rows" if run.plan.id_map_bytes else ""
    lines = [
        f"a rank's rates: {rates}, {1e6 * t.latency:g} us a collective",
        *run.described.assumed,
        "ids spread evenly over each table's rows; nothing overlaps; every exchange waits for the slowest rank",
        "not counted: reading data, elementwise work of the tower, Python and kernel launches (milliseconds a step)"
        f"{besides}",
    ]
    return ["an estimate, not a measurement; assumed:", *(f"  {line}" for line in lines)]


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _rate(value: float) -> str:
    return f"{value / 1e9:g} GB/s"


# ---------------------------------------------------------------- for programs


def _record(run: PlannedRun) -> dict[str, Any]:
    topology, estimate = run.topology, run.estimate
    return {
        **({"stage": run.stage} if run.stage else {}),
        "hosts": topology.hosts,
        "devices": topology.local_world_size,
        "device": topology.device,
        "memory_per_rank": topology.memory_per_rank,
        "rates": {
            name: getattr(topology, name)
            for name in ("row_bandwidth", "local_bandwidth", "host_bandwidth", "dense_flops", "latency")
        },
        "tables": {name: _table_record(run.plan, name) for name in run.plan.tables},
        "bytes_per_rank": list(run.plan.bytes_per_rank),
        "id_map_bytes_per_rank": run.plan.id_map_bytes,
        "bytes_per_host": list(run.plan.host_bytes),
        "buffer_bytes_per_rank": [int(size) for size in estimate.buffer_bytes],
        "global_batch_size": estimate.global_batch_size,
        "step_milliseconds": 1e3 * estimate.seconds,
        "samples_per_second": estimate.samples_per_second,
        **{f"{group}_milliseconds": 1e3 * estimate.group_seconds(group) for group in GROUPS},
        "parts": {part.name: _part_record(part) for part in estimate.parts},
        "bottleneck": {"group": estimate.slowest_group, "part": estimate.bottleneck.name},
        "changes": [
            {
                "what": change.name,
                "step_milliseconds": 1e3 * change.seconds,
                "samples_per_second": change.samples_per_second,
                "bytes_on_fullest_rank": change.most_bytes,
            }
            for change in run.changes
        ],
        "assumed": list(run.described.assumed),
    }


def _table_record(plan: Plan, name: str) -> Mapping[str, Any]:
    planned = plan.tables[name]
    table = planned.table
    assert table.optimizer is not None
    return {
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "dtype": table.dtype,
        "optimizer": table.optimizer.name,
        "placement": planned.placement,
        "memory": table.memory,
        "shards": len(planned.shards),
        "largest_shard_bytes": planned.largest_shard,
        "bytes": sum(planned.bytes_by_rank.values()),
        "ranks": sorted(planned.bytes_by_rank),
    }


def _part_record(part: PartEstimate) -> Mapping[str, Any]:
    return {"milliseconds": 1e3 * part.longest, "slowest_rank": part.slowest, "tables": part.leading()}


def print_plans(
    config: RunConfig,
    machines: Machines,
    *,
    mean_length: float | None = None,
    chart: Path | None = None,
    as_json: bool = False,
) -> Iterator[str]:
    """Yields what the command prints, run by run, and writes the charts."""
    for run in planned_runs(config, machines, mean_length):
        if as_json:
            yield json.dumps(run.record())
        else:
            yield (f"stage {run.stage}\n" if run.stage else "") + run.report()
        if chart is not None:
            file = chart.with_stem(f"{chart.stem}-{run.stage}") if run.stage else chart
            draw_memory(run.plan, file)
