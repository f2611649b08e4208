"""`shardrec ...`; `python -m shardrec` is the same. Errors that a user can cause are one line and exit status 1."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from shardrec.data_pipeline.comma_lists import names_in

THREADS_WAIT = ("GOMP_SPINCOUNT", "100000")
"""Threads that wait for others sleep after so many turns (a fraction of a millisecond). Those that spin on take the
core that the reader, or whoever else is on the machine, needs for the others to come; those that sleep at once wake
late."""

app = typer.Typer(
    name="shardrec",
    help="Trains recommenders whose ID tables outgrow a machine: TorchRec tables, Ray workers, Parquet in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="the run file", show_default=False)]
RunPath = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="the folder of an earlier run", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a key of the run file")]
Variant = Annotated[
    str | None, typer.Option(metavar="NAME", help="one of the run file's variants, or the name of a model")
]
RowKind = Annotated[
    Literal["int8"] | None,
    typer.Option(help="hold tables' rows as int8, where that is smaller; default: as trained, with optimizer state"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")]


@app.command()
def train(
    run_file: RunFile,
    variant: Variant = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="go on from the newest complete checkpoint of the run folder")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model as a run file says."""
    from shardrec.trainer.config.load import load
    from shardrec.trainer.config.stages import resolve_stages
    from shardrec.trainer.run_folder.summaries import print_summary
    from shardrec.trainer.training.train_run import train_run

    config = load(run_file, overrides or (), variant=variant)
    summary = train_run(config, resume=resume, quiet=quiet)
    if summary:
        for name, stage in resolve_stages(config).items():
            typer.echo(f"stage {name}")
            print_summary(stage, summary["stages"][name])
        if not config.stages:
            print_summary(config, summary)


@app.command()
def compare(
    run_file: RunFile,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="variants or models to compare; default: all variants")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each model, under trainer.seed 0, 1, ...")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder of the comparison; default: the run file's `run`")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train several models on the same data under several seeds, and print one table. Goes on where it stopped."""
    from rich.console import Console

    from shardrec.trainer.comparison.compare import compare_models

    names = names_in(models or "")
    board = compare_models(run_file, names, seeds, overrides or (), out, quiet)
    board.print(Console(highlight=False))
    if board.failures:
        raise typer.Exit(1)


@app.command()
def contrast(
    comparison: Annotated[Path, typer.Argument(help="the folder of a comparison", show_default=False)],
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="each is compared with the first; default: all, by name")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="files, folders, globs or URIs; default: its test rows")
    ] = None,
    by: Annotated[str | None, typer.Option(help="a sequence; also by its length")] = None,
    draws: Annotated[int, typer.Option(min=2, help="how often users are drawn")] = 1000,
) -> None:
    """Differences of a comparison's models in AUC and GAUC, by a paired bootstrap over users."""
    from rich.console import Console

    from shardrec.trainer.comparison.contrast import contrast_models, print_contrast

    names = names_in(models or "")
    said = Console(stderr=True, highlight=False).print
    print_contrast(contrast_models(comparison, names, data=tuple(data or ()), by=by, draws=draws, progress=said))


@app.command()
def evaluate(
    run_folder: RunPath,
    data: Annotated[
        list[str] | None, typer.Option(help="files, folders, globs or URIs; default: its own splits")
    ] = None,
    step: Annotated[int | None, typer.Option(help="which checkpoint; default: the best, else the last")] = None,
    rows: RowKind = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Score a trained model on its validation and test rows, or on other data."""
    from shardrec.trainer.run_folder.folder import RunFolder
    from shardrec.trainer.run_folder.summaries import print_metrics
    from shardrec.trainer.scoring.evaluate import evaluate_run

    found = evaluate_run(run_folder, tuple(data or ()), step, tuple(overrides or ()), rows=rows, quiet=quiet)
    if found:
        print_metrics(RunFolder.open(run_folder), found)


@app.command()
def predict(
    run_folder: RunPath,
    data: Annotated[list[str], typer.Option(help="files, folders, globs or URIs to score", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for the scores, as Parquet", show_default=False)],
    keys: Annotated[list[str] | None, typer.Option(help="columns to keep; default: the schema's keys")] = None,
    step: Annotated[int | None, typer.Option(help="which checkpoint; default: the best, else the last")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="also what it came from (afm, din, dien, bst)")] = False,
    rows: RowKind = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Write a score for every row, beside its key columns, as Parquet."""
    from shardrec.trainer.scoring.predict import predict_rows

    chosen = (tuple(keys or ()), step, tuple(overrides or ()))
    result = predict_rows(run_folder, tuple(data), out, *chosen, explain=explain, rows=rows, quiet=quiet)
    if result:
        typer.echo(f"{result['rows']} rows scored with step {result['step']} -> {out}")


@app.command()
def plan(
    run_file: RunFile,
    hosts: Annotated[int | None, typer.Option(min=1, help="machines to plan for; default: this one")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs of each, or CPU workers with --device cpu")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: launch.device, else cuda")] = None,
    device_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="of a GPU: 80GB")] = None,
    host_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="of a machine: 1TB")] = None,
    reserve: Annotated[str | None, typer.Option(metavar="SIZE", help="of a rank's memory, not for tables")] = None,
    intra_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's, in a host: 450GB/s")] = None,
    inter_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's, between hosts: 50GB/s")] = None,
    row_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="at which a rank reads rows: 2TB/s")] = None,
    dense_flops: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's matrix products: 50TFLOP/s")] = None,
    mean_length: Annotated[float | None, typer.Option(min=0, help="ids a row of lists and sequences")] = None,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw the memory of each rank")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all numbers, as a line of JSON")] = False,
    variant: Variant = None,
    overrides: Overrides = None,
) -> None:
    """Print where each table would live, here or on machines described by options, and what a step takes there.

    Allocates no table. Machines that are not here get an estimate of the step, its bottleneck and what to change.
    """
    from shardrec.trainer.config.load import load
    from shardrec.trainer.planning.machines import Machines
    from shardrec.trainer.planning.report import print_plans

    config = load(run_file, overrides or (), variant=variant)
    asked = Machines(
        hosts=hosts,
        devices=devices,
        device=device,
        device_memory=device_memory,
        host_memory=host_memory,
        reserve=reserve,
        intra_bandwidth=intra_bandwidth,
        inter_bandwidth=inter_bandwidth,
        row_bandwidth=row_bandwidth,
        dense_flops=dense_flops,
    )
    for printed in print_plans(config, asked, mean_length=mean_length, chart=chart, as_json=as_json):
        typer.echo(printed)


@app.command()
def tables(
    run_folder: RunPath,
    step: Annotated[int | None, typer.Option(help="which checkpoint; default: the newest")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all numbers, as a line of JSON")] = False,
) -> None:
    """How tables are used: occupancy, evictions, collisions of hashed ids (estimated), dead rows, norms of rows."""
    import json

    from rich.console import Console
    from rich.markup import escape

    from shardrec.trainer.tables.report import table_report
    from shardrec.trainer.tables.report_view import print_tables

    with Console(stderr=True).status("") as status:
        found = table_report(run_folder, step, lambda said: status.update(escape(said)))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_tables(found)


def main() -> None:
    """The console script."""
    os.environ.setdefault(*THREADS_WAIT)  # before torch is imported, here and in the workers that inherit it
    from shardrec.data_pipeline.errors import UserError
    from shardrec.data_pipeline.prepare.commands import app as prepare
    from shardrec.trainer.commands.bench import app as bench
    from shardrec.trainer.commands.checkpoint import app as checkpoint

    app.add_typer(prepare, name="prepare", help="Make Parquet and a schema from raw data.")
    app.add_typer(checkpoint, name="checkpoint", help="Look into checkpoints, compare them, move tables out and in.")
    app.add_typer(bench, name="bench", help="Measure the reader and the training step on this machine.")
    try:
        app()
    except (UserError, OSError) as error:  # OSError: a full disk, a path that may not be written
        sys.exit(f"shardrec: error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
