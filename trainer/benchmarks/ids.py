"""`shardrec bench ids` sends a long stream of raw ids through one dynamic table and checks its counters in the end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from shardrec.data_pipeline.declared.declaration import first_problem
from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.models.dynamic_ids import DynamicConfig
from shardrec.sharding.planning.topology import available_memory
from shardrec.trainer.benchmarks.id_stream import Stream, build_table, run_stream
from shardrec.trainer.benchmarks.sharding import run_without_data
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressFile

MUST_BE_ZERO = ("balance", "rows_of_others", "too_early", "overcounted")


def benchmark_ids(
    scratch: Path, stream: Stream, config: DynamicConfig, dim: int, workers: int, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns what `id_stream.run_stream` reports, with the table's settings; `scratch` is for the workers' logs."""
    run = run_without_data(scratch, workers, overrides)
    needed, memory = workers * stream.counter_bytes, available_memory()
    if needed > memory:
        raise UserError(
            f"--space {stream.space}: exact counts of so many ids take {readable(needed)}, and {readable(memory)} are "
            "left; choose fewer"
        )
    folder = RunFolder.create(run, resume=False)
    report = supervised(ids_worker, run, folder, stream=asdict(stream), dynamic=config.model_dump(), dim=dim)
    assert report is not None
    return {"dynamic": config.model_dump(exclude_defaults=True), "embedding_dim": dim, **report}


def dynamic_config(options: Mapping[str, Any]) -> DynamicConfig:
    """Returns the table's settings. Raises UserError for what they cannot be."""
    try:
        return DynamicConfig.model_validate(options)
    except ValidationError as error:
        raise UserError(first_problem(error)) from None


def ids_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    stream: dict[str, Any],
    dynamic: dict[str, Any],
    dim: int,
) -> dict[str, Any]:
    """Trains one worker's part of the stream."""
    whole = Stream(**stream)
    progress = ProgressFile(folder.logs, enabled=environment.leads)
    table = build_table(DynamicConfig.model_validate(dynamic), dim, environment.device)
    return run_stream(whole, table, environment.device, progress.counter("streaming", whole.steps))


def print_ids(report: dict[str, Any], console: Console) -> bool:
    """Prints a line a figure; returns whether what must be 0 is."""
    table = Table(title="ids through a dynamic table", box=None, show_header=False, title_justify="left")
    for name, value in report.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    console.print(table)
    wrong = [name.replace("_", " ") for name in MUST_BE_ZERO if report[name]]
    console.print(f"wrong: {', '.join(wrong)}" if wrong else "every count that must be 0 is 0")
    return not wrong
