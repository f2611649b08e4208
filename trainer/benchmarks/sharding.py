"""`shardrec bench sharding` measures lookup and update of tables over placements, workers, rows, pooling and skew.

Workers are launched once for each world size and measure all cases there, with the ceilings of their machine: rows that
plain gathers read, bytes that plain exchanges move. A case's floor is the time that both would take for its rows and
bytes; its share of the measured lookup says how much is left to gain.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

from shardrec.data_pipeline.declared.comma_lists import names_in, numbers_in
from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.data_pipeline.prepare.generators.planted import PlantedLog
from shardrec.models.table_settings import Placement
from shardrec.sharding.planning.placements import OF_HOSTS
from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.benchmarks.sharded_tables import (
    Case,
    exchange_ceiling,
    exchange_latency,
    gather_ceiling,
    measure_case,
)
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.freed_memory import give_back_freed_memory
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.atomic import check_own_picture, write_atomically, write_csv, write_picture
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import plain_table, print_table
from shardrec.trainer.run_folder.worker_lines import say

PLACEMENTS: tuple[Placement, ...] = (
    *("table_wise", "row_wise", "column_wise", "data_parallel"),
    *("table_row_wise", "grid"),  # those of several hosts
)
VARIED = ("placement", "world_size", "rows", "batch", "pooling", "skew")


@dataclass(frozen=True)
class Sweep:
    """A sweep measures every combination of what it lists."""

    placements: tuple[Placement, ...]
    world_sizes: tuple[int, ...]
    rows: tuple[int, ...]
    batches: tuple[int, ...]
    pooling: tuple[int, ...]
    skews: tuple[float, ...]

    @classmethod
    def read(cls, placements: str, workers: str, rows: str, batches: str, pooling: str, skews: str) -> "Sweep":
        """Reads comma-separated lists. Raises UserError for an unknown placement and for what is no such number."""
        names = names_in(placements) or [placements]
        for name in names:
            if name not in PLACEMENTS:
                raise UserError("--placements: " + unknown("placement", name, PLACEMENTS))
        whole = [("workers", workers), ("rows", rows), ("batch-sizes", batches), ("pooling", pooling)]
        world_sizes, tables, batch_sizes, ids = (_numbers(option, listed, int, 1) for option, listed in whole)
        placed = tuple(p for p in PLACEMENTS if p in names)
        return cls(placed, world_sizes, tables, batch_sizes, ids, _numbers("skews", skews, float, 0))

    def cases(self, world_size: int, common: Mapping[str, Any]) -> list[Case]:
        """Returns the cases of so many workers; one worker takes the first placement, since all are the same to it.

        common: the further fields of `Case`.
        """
        placements = self.placements[:1] if world_size == 1 else self.placements
        varied = product(self.rows, self.batches, self.pooling, self.skews, placements)
        return [Case(placement=p, rows=r, batch=b, pooling=ids, skew=s, **common) for r, b, ids, s, p in varied]


def _numbers(option: str, listed: str, kind: type, least: float) -> tuple[Any, ...]:
    try:
        numbers = tuple(numbers_in(listed, kind))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UserError(f"--{option}: found {listed!r}, expected {wanted} of {least} or more, such as 1,2")
    return numbers


def benchmark_sharding(
    scratch: Path,
    sweep: Sweep,
    common: Mapping[str, Any],
    steps: int,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Returns one result a case and number of workers. Raises UserError as planning and launching do."""
    for batch, world_size in product(sweep.batches, sweep.world_sizes):
        if batch % world_size:
            raise UserError(
                f"--batch-sizes: {batch} rows are no equal shares for {world_size} workers; choose a multiple"
            )
    results: list[dict[str, Any]] = []
    for world_size in sweep.world_sizes:
        cases = sweep.cases(world_size, common)
        progress(f"{world_size} worker(s): {len(cases)} cases")
        config = run_without_data(scratch, world_size, overrides)
        folder = RunFolder.create(config, resume=False)
        measured = supervised(sharding_worker, config, folder, cases=[asdict(c) for c in cases], steps=steps)
        assert measured is not None
        results += measured["cases"]
    return results


def run_without_data(scratch: Path, world_size: int, overrides: Sequence[str]) -> RunConfig:
    """Returns the run that launchers ask for; its data are declared, and never read."""
    PlantedLog((1,), 0).schema.save(scratch / "schema.yaml")
    path = scratch / f"workers-{world_size}.yaml"
    content = {
        "run": str(path.with_suffix("")),
        "data": {"path": str(scratch), "global_batch_size": world_size},
        "model": "lr",
        "launch": {"workers": world_size},
    }
    path.write_text(dump_document(content))
    return load(path, overrides)


def sharding_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, cases: list[dict[str, Any]], steps: int
) -> dict[str, Any]:
    """Measures all cases, in turns with their ceilings, but placements of several hosts where there is one."""
    results = []
    topology = Topology.here(environment.world_size, environment.local_world_size, environment.device).agreed()
    for case in _measurable([Case(**described) for described in cases], topology, folder, environment):
        gather = gather_ceiling(case, environment.device, steps)
        measured = measure_case(case, topology, environment.device, steps)
        exchange = exchange_ceiling(measured["exchanged_bytes_per_rank"], environment.device, steps)
        latency = exchange_latency(environment.device, steps)
        results.append(measured | _beside_ceilings(case, measured, gather, exchange) | {"latency_seconds": latency})
        give_back_freed_memory()  # the next case needs it
    return {"cases": results, "threads": torch.get_num_threads()}


def _measurable(cases: list[Case], topology: Topology, folder: RunFolder, environment: Environment) -> list[Case]:
    """Returns the cases that are what they are called here; a line says which are not. Raises UserError for none."""
    if topology.several_alike or topology.world_size == 1:
        return cases
    kept = [case for case in cases if case.placement not in OF_HOSTS]
    if len(kept) == len(cases):
        return cases
    names = ", ".join(sorted({case.placement for case in cases if case.placement in OF_HOSTS}))
    found = f"found {topology.world_size} workers on {topology.hosts}, expected several hosts with as many each"
    if not kept:
        raise UserError(f"--placements {names}: {found}; name others")
    if environment.leads:
        say(folder.logs, f"shardrec: {names}: left out: {found}")
    return kept


def _beside_ceilings(case: Case, measured: dict[str, Any], gather: float, exchange: float) -> dict[str, Any]:
    """Returns a case's ceilings, and its floor: what plain gathers and exchanges of the lookup's half would take.

    gather: rows/s of all ranks; exchange: bytes/s a rank.
    """
    ids = case.batch * case.tables * case.pooling
    floor = ids / gather + measured["lookup_bytes_per_rank"] / exchange
    return {
        "gather_ceiling_rows_per_second": gather,
        "exchange_ceiling_bytes_per_second": None if exchange == float("inf") else exchange,
        "lookup_floor_milliseconds": 1e3 * floor,
        "lookup_share_of_ceiling": 1e3 * floor / measured["lookup_milliseconds"],
    }


# ---------------------------------------------------------------- what planning takes from it


def calibrated(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns a worker's rates for `launch.rates`: medians over the cases.

    row_bandwidth: bytes that the cost model has rows read and written for, over lookup and update of one worker, or
    where there is no such case over what plain gathers take. local_bandwidth, latency: of plain exchanges; exchanges
    below a megabyte tell the latter only.
    """
    alone = [row for row in results if row["world_size"] == 1]
    together = [row for row in results if row["exchange_ceiling_bytes_per_second"] is not None]
    if alone:
        bandwidths = [
            1e3 * row["row_bytes_per_rank"] / (row["lookup_milliseconds"] + row["update_milliseconds"]) for row in alone
        ]
    else:
        width = [row["embedding_dim"] * (2 if row["dtype"] == "fp16" else 4) for row in results]
        gathers = [row["gather_ceiling_rows_per_second"] / row["world_size"] for row in results]
        bandwidths = [rows * size for rows, size in zip(gathers, width, strict=True)]
    rates = {"row_bandwidth": median(bandwidths)}
    large = [row["exchange_ceiling_bytes_per_second"] for row in together if row["exchanged_bytes_per_rank"] > 1e6]
    if large:
        rates["local_bandwidth"] = median(large)
    if together:
        rates["latency"] = median(row["latency_seconds"] for row in together)
    return {name: float(f"{value:.3g}") for name, value in rates.items()}


def write_rates(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes `launch: {rates: ...}`, the part of a run file that planning reads."""
    write_atomically(path, dump_document({"launch": {"rates": calibrated(results)}}))


# ---------------------------------------------------------------- what is shown


def check_writable(out: Path | None, rates: Path | None) -> None:
    """Raises UserError where what `write_results` or `write_rates` would replace is something else."""
    if out is not None:
        check_own_file(out / "sharding.csv", rb"placement,rows,batch,pooling,skew.*")
        check_own_file(out / "sharding.json", rb'\{"placement": .*')
        check_own_picture(out / "sharding.png")
    if rates is not None:
        check_own_file(rates, rb"launch:\n  rates:\n(    [a-z_]+: [0-9.e+-]+\n)*")


def write_results(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Writes sharding.csv, sharding.json (a line a case) and sharding.png in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "sharding.csv", results)
    write_atomically(out / "sharding.json", "".join(json.dumps(row) + "\n" for row in results))
    _plot(results, out / "sharding.png")


def print_results(results: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints what varies, and the times beside their floor."""
    varied = _varied(results)
    settings = ["workers" if name == "world_size" else name for name in varied]
    columns = [*settings, "lookup", "floor", "share", "update", "samples/s", "MB"]
    lines = [
        [
            *_settings(row, varied),
            f"{row['lookup_milliseconds']:.1f}",
            f"{row['lookup_floor_milliseconds']:.1f}",
            f"{row['lookup_share_of_ceiling']:.0%}",
            f"{row['update_milliseconds']:.1f}",
            f"{row['samples_per_second']:,.0f}",
            f"{row['exchanged_bytes_per_rank'] / 1e6:.1f}",
        ]
        for row in results
    ]
    title = "lookup and update of tables, ms a step"
    print_table(console, plain_table(columns, lines, left=("placement",), title=title))
    console.print(
        "floor: plain gathers and exchanges of as many rows and bytes; MB: received a step by the worker of most",
        soft_wrap=True,
    )


def _varied(results: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of the settings in which results differ."""
    return [name for name in VARIED if len({row[name] for row in results}) > 1] or ["placement"]


def _settings(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{row[name]:,}" if isinstance(row[name], int) else str(row[name]) for name in names]


def _plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws bars of lookup and update, a row a case, with the lookup's floor marked."""
    varied = _varied(results)
    names = [", ".join(_settings(row, varied)) for row in results]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(results)), layout="constrained", dpi=150)
    axes = figure.subplots()
    places = range(len(results))
    lookup = [row["lookup_milliseconds"] for row in results]
    axes.barh(places, lookup, color="tab:blue", label="lookup")
    axes.barh(places, [row["update_milliseconds"] for row in results], left=lookup, color="tab:orange", label="update")
    floor = [row["lookup_floor_milliseconds"] for row in results]
    axes.plot(floor, places, "k|", markersize=10, label="lookup's floor")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a step")
    axes.set_ylabel(", ".join(name.replace("_", " ") for name in varied))
    axes.legend()
    write_picture(path, figure)
