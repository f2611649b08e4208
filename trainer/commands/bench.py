"""`shardrec bench ...`: each command prints a table and, as its last line, one JSON object."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from shardrec.data_pipeline.declared.comma_lists import names_in
from shardrec.trainer.commands.options import LaunchOverrides, Overrides
from shardrec.trainer.run_folder.terminal import messages, results

if TYPE_CHECKING:
    from shardrec.trainer.launch.worker import Worker

app = typer.Typer(no_args_is_help=True)

BENCHMARK_ROWS = 400_000
BENCHMARK_FIELDS = 26
BENCHMARK_DENSE = 13
BENCHMARK_IDS = 1_000_000


@app.command()
def reader(
    data: Annotated[Path | None, typer.Argument(help="prepared data; default: a made log of 40 columns")] = None,
    lanes: Annotated[int, typer.Option(help="lanes of the shuffled reader")] = 16,
    batch_size: Annotated[int, typer.Option(help="rows of a batch")] = 4096,
    readers: Annotated[int, typer.Option(min=0, help="processes that decode; 0: all on one core")] = 0,
    repeats: Annotated[int, typer.Option(help="measurements; the median counts")] = 5,
) -> None:
    """Measures rows/s of the shuffled reader, beside plain pyarrow on one core on the same columns."""
    from shardrec.data_pipeline.features.schema import Schema
    from shardrec.trainer.benchmarks.reader import benchmark_reader

    inputs = (data / "train", Schema.load(data / "schema.yaml")) if data else (None, None)
    figures = benchmark_reader(
        *inputs, folder=data or ".", lanes=lanes, global_batch_size=batch_size, readers=readers, repeats=repeats
    )
    _print(f"reader, {readers} processes" if readers else "reader, one core", figures)


@app.command()
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="as `shardrec export` wrote it", show_default=False)],
    data: Annotated[list[str], typer.Option(help="Parquet files of rows to score", show_default=False)],
    prepared: Annotated[bool, typer.Option("--prepared", help="rows are as preparation wrote them")] = False,
    threads: Annotated[int, typer.Option(help="of torch", min=1)] = 1,
    candidates: Annotated[int, typer.Option(help="of one row, scored together", min=1)] = 1000,
    seconds: Annotated[float, typer.Option(help="that each call is measured for")] = 2.0,
) -> None:
    """Measures how fast a bundle scores 1, 32 and 1024 rows, and 1,000 candidates of one row."""
    from shardrec.trainer.benchmarks.bundle import benchmark_bundle

    lines = benchmark_bundle(folder, data, prepared=prepared, threads=threads, candidates=candidates, seconds=seconds)
    table = Table("call", "rows/s", "p50 ms", "p99 ms", "reading, p50 ms")
    for line in lines:
        reading = f"{line['reading_p50_ms']:.2f}" if "reading_p50_ms" in line else ""
        table.add_row(
            line["call"], f"{line['rows_per_s']:,.0f}", f"{line['p50_ms']:.2f}", f"{line['p99_ms']:.2f}", reading
        )
    results().print(table)
    typer.echo(json.dumps(lines))


@app.command()
def step(
    run_file: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="default: a made log")] = None,
    model: Annotated[
        str | None, typer.Option(help="without a run file: which model, dim 16, MLP 400-400-400; default: deepfm")
    ] = None,
    ids: Annotated[
        int | None, typer.Option(help=f"without a run file: ids over all 26 fields; default: {BENCHMARK_IDS}")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="without a run file: prepared data; default: a made log")] = None,
    steps: Annotated[int, typer.Option(help="steps that are timed")] = 50,
    bound: Annotated[bool, typer.Option(help="measure the step's products and rows alone, in turns with it")] = True,
    overrides: Overrides = None,
) -> None:
    """Measures samples/s of the training step in memory, beside its bound, and end to end from Parquet, in one run."""
    from shardrec.trainer.benchmarks.step import step_worker

    figures = _measured(step_worker, run_file, model, ids, overrides, data=data, steps=steps, bound=bound)
    if figures:
        _print(f"training step, {figures['model']}", figures)


@app.command()
def predict(
    run_file: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="default: a made log")] = None,
    model: Annotated[
        str | None, typer.Option(help="without a run file: which model, dim 16, MLP 400-400-400; default: deepfm")
    ] = None,
    ids: Annotated[
        int | None, typer.Option(help=f"without a run file: ids over all 26 fields; default: {BENCHMARK_IDS}")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="measurements, in turns with the products; medians count")] = 3,
    overrides: Overrides = None,
) -> None:
    """Measures rows/s of scoring from Parquet to Parquet, beside the tower's matrix products alone."""
    from shardrec.trainer.benchmarks.predict import predict_worker

    figures = _measured(predict_worker, run_file, model, ids, overrides, rounds=rounds)
    if figures:
        _print(f"scoring, {figures['model']}", figures)


@app.command()
def histories(
    data: Annotated[Path | None, typer.Argument(help="prepared histories; default: a made log, mean length 23")] = None,
    models: Annotated[
        str, typer.Option(metavar="A,B,C", help="of base, din, dien, dien_auxiliary, bst")
    ] = "din,dien,dien_auxiliary",
    precisions: Annotated[str, typer.Option(metavar="A,B", help="of fp32, bf16")] = "fp32,bf16",
    rows: Annotated[int, typer.Option(min=1, help="training rows of the made log")] = 500_000,
    batch_size: Annotated[int, typer.Option(min=1, help="rows of a batch")] = 4096,
    steps: Annotated[int, typer.Option(min=1, help="steps that are timed in each measurement")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of each form, in turns; medians count")] = 3,
    overrides: Overrides = None,
) -> None:
    """Measures DIN, DIEN and kin end to end from Parquet, beside the same models written the usual padded way."""
    from shardrec.trainer.benchmarks.histories import benchmark_histories

    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as scratch:
        figures = benchmark_histories(
            data,
            Path(scratch),
            models=names_in(models),
            precisions=names_in(precisions),
            rows=rows,
            batch_size=batch_size,
            steps=steps,
            rounds=rounds,
            overrides=overrides or (),
            progress=messages().print,
        )
    _print_histories(figures)


@app.command()
def sharding(
    placements: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="of table_wise, row_wise, column_wise, data_parallel; on several hosts table_row_wise, grid",
        ),
    ] = "table_wise,row_wise,column_wise,data_parallel",
    workers: Annotated[str, typer.Option(metavar="N,M", help="numbers of workers")] = "1,2",
    rows: Annotated[str, typer.Option(metavar="N,M", help="rows of a table")] = "10000,1000000",
    batch_sizes: Annotated[str, typer.Option(metavar="N,M", help="rows of a batch, of all workers together")] = "4096",
    pooling: Annotated[str, typer.Option(metavar="N,M", help="ids a row of the batch and table")] = "1,10",
    skews: Annotated[str, typer.Option(metavar="X,Y", help="ids are as frequent as rank^-skew")] = "0,1.2",
    tables: Annotated[int, typer.Option(min=1, help="equal tables")] = 8,
    embedding_dim: Annotated[int, typer.Option(min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="fp32 or fp16")] = "fp32",
    optimizer: Annotated[str, typer.Option(help="as in a run file's optimizer.tables.name")] = "adagrad",
    steps: Annotated[int, typer.Option(min=1, help="steps that are timed in each case")] = 15,
    out: Annotated[Path | None, typer.Option(help="folder for sharding.csv, sharding.json and sharding.png")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="write the measured rates, as a run file's launch.rates")
    ] = None,
    overrides: LaunchOverrides = None,
) -> None:
    """Measures lookup and update under placements, workers, table sizes, batches, pooling and skew.

    Beside them stands what memory and exchange reach.
    """
    from shardrec.trainer.benchmarks.sharding import (
        Sweep,
        benchmark_sharding,
        check_writable,
        print_results,
        write_rates,
        write_results,
    )
    from shardrec.trainer.config.paths import absolute_folder

    out, calibrate = (None if path is None else absolute_folder(path) for path in (out, calibrate))
    check_writable(out, calibrate)
    sweep = Sweep.read(placements, workers, rows, batch_sizes, pooling, skews)
    common = {"tables": tables, "embedding_dim": embedding_dim, "dtype": dtype, "optimizer": optimizer}
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as scratch:
        figures = benchmark_sharding(Path(scratch), sweep, common, steps, overrides or (), messages().print)
    console = results()
    print_results(figures, console)
    _print_json(figures)
    if out:
        write_results(figures, out)
        console.print(f"written to {out}")
    if calibrate:
        write_rates(figures, calibrate)
        console.print(f"rates for planning are in {calibrate}: put its launch.rates into run files")


@app.command()
def checkpoint(
    folder: Annotated[Path, typer.Option(help="where to write, on the disk that is measured")] = Path("."),
    size: Annotated[str, typer.Option(help="of the table with its optimizer's state, such as 4GB")] = "4GB",
    dim: Annotated[int, typer.Option(min=1, help="columns of the table")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of each kind, in turns")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="that write and read their parts at once")] = 1,
    overrides: LaunchOverrides = None,
) -> None:
    """Measures GB/s at which checkpoints are written and read, beside plain writes and reads, and memory."""
    from shardrec.trainer.benchmarks.checkpoint import benchmark_checkpoint, print_checkpoint
    from shardrec.trainer.planning.machines import parse_size

    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as scratch:
        settings = parse_size("--size", size), dim, rounds, workers, overrides or ()
        figures = benchmark_checkpoint(Path(scratch), folder, *settings)
    console = results()
    print_checkpoint(figures, console)
    _print_json(figures)


@app.command()
def ids(
    events: Annotated[int, typer.Option(min=1, help="ids of the stream")] = 50_000_000,
    space: Annotated[int, typer.Option(min=1, help="ids that there may be")] = 50_000_000,
    rows: Annotated[int, typer.Option(min=1, help="rows of the table")] = 1_000_000,
    batch_size: Annotated[int, typer.Option(min=1, help="ids of a step, of all workers together")] = 100_000,
    skew: Annotated[float, typer.Option(min=0, help="ids are as frequent as rank^-skew, 0: alike")] = 1.05,
    after: Annotated[int, typer.Option(min=1, help="as in a run file's dynamic.after")] = 2,
    evict: Annotated[str, typer.Option(help="lfu, lru or age, with --age")] = "lfu",
    age: Annotated[int | None, typer.Option(min=1, help="as in a run file's dynamic.age")] = None,
    candidates: Annotated[float, typer.Option(help="as in a run file's dynamic.candidates")] = 1.0,
    dim: Annotated[int, typer.Option(min=1, help="columns of the table")] = 16,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    overrides: LaunchOverrides = None,
) -> None:
    """Measures a stream of raw 64-bit ids through a dynamic table, beside exact counts: counters and speed."""
    from shardrec.trainer.benchmarks.id_stream import Stream
    from shardrec.trainer.benchmarks.ids import benchmark_ids, dynamic_config, print_ids

    stream = Stream(events, space, batch_size, skew, seed)
    settings = {"rows": rows, "after": after, "evict": evict, "age": age, "candidates": candidates}
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as scratch:
        figures = benchmark_ids(Path(scratch), stream, dynamic_config(settings), dim, workers, overrides or ())
    console = results()
    is_right = print_ids(figures, console)
    _print_json(figures)
    raise typer.Exit(0 if is_right else 1)


@app.command()
def gpu(
    out: Annotated[Path, typer.Option(help="folder for gpu-check.json, gpu-check.md, a profile and a log")] = Path(
        "gpu-check"
    ),
    device: Annotated[str, typer.Option(help="cuda, or cpu for a dry run, with --small")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="small sizes: each section is gone through")] = False,
    sections: Annotated[str, typer.Option(metavar="A,B", help="only these; default: all", show_default=False)] = "",
    minutes: Annotated[float, typer.Option(min=0.1, help="that all sections together may take")] = 8.0,
) -> None:
    """Checks and measures all that needs a GPU, in one run whose results are one file; exits with 1 where some fail."""
    from shardrec.data_pipeline.errors import UserError
    from shardrec.trainer.benchmarks.gpu_check.check import check_gpu
    from shardrec.trainer.config.paths import absolute_folder

    if device not in ("cpu", "cuda"):
        raise UserError(f"--device: found {device!r}, expected cuda or cpu")
    names = tuple(names_in(sections)) if sections else ()
    folder, where = Path(absolute_folder(out)), "cuda" if device == "cuda" else "cpu"
    record = check_gpu(folder, where, small=small, names=names, minutes=minutes, progress=messages().print)  # type: ignore[arg-type]
    _print_json({found.name: found.state for found in record.sections})
    raise typer.Exit(1 if record.failed else 0)


def _measured(
    worker: "Worker",
    run_file: Path | None,
    model: str | None,
    ids: int | None,
    overrides: list[str] | None,
    *,
    data: Path | None = None,
    **arguments: Any,
) -> dict[str, Any] | None:
    """Runs a benchmark's worker on a run file, or with a model on data, or on the made log; returns its figures."""
    from shardrec.data_pipeline.declared.documents import dump_document
    from shardrec.data_pipeline.errors import UserError
    from shardrec.trainer.config.load import load
    from shardrec.trainer.launch.supervision import supervised
    from shardrec.trainer.run_folder.folder import RunFolder
    from shardrec.trainer.training.inspection import inspect_run

    without_run_file = {"--model": model, "--ids": ids, "--data": data}
    option = next((name for name, value in without_run_file.items() if value is not None), None)
    if run_file is not None and option:
        raise UserError(
            f"{option}: is of the made log, and {run_file} says what it has; leave it out, or change that by --set"
        )
    if data is not None and ids is not None:
        raise UserError(f"--ids: is of the made log, and {data} has ids of its own; leave one of the two out")
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as scratch:
        if run_file is None:
            data = data.absolute() if data else _made_log(Path(scratch) / "data", ids or BENCHMARK_IDS)
            run_file = Path(scratch) / "run.yaml"
            run_file.write_text(
                dump_document({"run": f"{scratch}/run", "data": {"path": str(data)}, "model": model or "deepfm"})
            )
        config = load(run_file, overrides or ()).model_copy(update={"run": f"{scratch}/run"})
        inspect_run(config)
        return supervised(worker, config, RunFolder.create(config, resume=False), **arguments)


def _made_log(folder: Path, ids: int) -> Path:
    """Writes a synthetic log of the usual click-log shape; returns its folder."""
    from shardrec.data_pipeline.prepare.generators.synthetic import synthetic

    rows, fields, dense = BENCHMARK_ROWS, BENCHMARK_FIELDS, BENCHMARK_DENSE
    synthetic(folder, rows=rows, fields=fields, ids=ids // fields, dense=dense)
    return folder


def _print_json(figures: Any) -> None:
    typer.echo(json.dumps(figures))


def _print(title: str, figures: dict[str, Any]) -> None:
    table = Table(title=title, box=None, show_header=False, title_justify="left")
    for name, value in figures.items():
        large = isinstance(value, float) and value >= 1000
        shown = f"{value:,.0f}" if large else f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(name.replace("_", " "), shown)
    results().print(table)
    _print_json(figures)


def _print_histories(figures: dict[str, Any]) -> None:
    """Prints a line a form; end to end is from Parquet to updated tables, a ratio ours to the form of its line."""
    conditions = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if name != "results")
    table = Table(title="histories, samples/s", caption=conditions, box=None)
    for column in ("model", "", "form", "end to end", "ratio", "step", "ratio", "MiB"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("model", "", "form") else "right")
    for row in figures["results"]:
        for form, name in (("jagged", "ours"), ("padded", "padded"), ("tuned", "tuned")):
            cells = [row["model"], row["precision"], name]
            for measure in ("end_to_end", "step"):
                ratio = row.get(f"{measure}_ratio_to_{form}")
                cells += [f"{row[f'{form}_{measure}_samples_per_second']:,.0f}", f"{ratio:.1f}" if ratio else ""]
            table.add_row(*cells, f"{row[f'{form}_peak_memory_bytes'] / 2**20:,.0f}")
    results().print(table)
    _print_json(figures)
