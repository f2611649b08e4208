"""`shardrec calibrate` and `shardrec rank`: probabilities that hold, and rows in the order of what they bring."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from shardrec.trainer.commands.options import AsJson, Chosen, RunPath, of_a_run

Method = Annotated[
    Literal["isotonic", "platt"], typer.Option(help="a non-descending map of steps; or a logistic one of two numbers")
]
Fitted = Annotated[Literal["validation", "test"], typer.Option(help="which of the run's splits to fit")]


@of_a_run
def calibrate(
    run_folder: RunPath,
    chosen: Chosen,
    method: Method = "isotonic",
    split: Fitted = "validation",
    data: Annotated[list[str] | None, typer.Option(help="files to fit instead of a split, such as newer logs")] = None,
    picture: Annotated[Path | None, typer.Option(help="a reliability diagram, .svg or .png")] = None,
    as_json: AsJson = False,
) -> None:
    """Fits scores to the rates at which labels come true, and keeps the map in the run folder."""
    with chosen.started_early(run_folder, "shardrec.trainer.ranking.calibrate"):
        from shardrec.trainer.ranking.calibrate import calibrate_run
        from shardrec.trainer.ranking.report import print_calibration

        result = calibrate_run(run_folder, method, split, tuple(data or ()), picture=picture, **chosen.arguments)
    if result and as_json:
        typer.echo(json.dumps(result))
    elif result:
        print_calibration(run_folder, result, picture)


@of_a_run
def rank(
    run_folder: RunPath,
    chosen: Chosen,
    data: Annotated[list[str], typer.Option(help="files, folders, globs or URIs of rows", show_default=False)],
    out: Annotated[Path, typer.Option(help="a new folder for the rows in order, as Parquet", show_default=False)],
    bid: Annotated[str | None, typer.Option(help="the column of bids a click; default: by probability alone")] = None,
    reserve: Annotated[
        float | None, typer.Option(help="leave out rows whose eCPM (1,000 x pCTR x bid) is less")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="the column of requests; default: the schema's group, else all rows are one")
    ] = None,
    top: Annotated[int | None, typer.Option(help="the most rows of a group; default: all")] = None,
    keys: Annotated[list[str] | None, typer.Option(help="columns to keep; default: the schema's keys")] = None,
    calibrated: Annotated[
        bool | None,
        typer.Option("--calibrated/--uncalibrated", help="default: calibrated, where `shardrec calibrate` was used"),
    ] = None,
) -> None:
    """Orders the rows of each group by probability, or by what a click is expected to bring."""
    with chosen.started_early(run_folder, "shardrec.trainer.ranking.rank"):
        from shardrec.trainer.ranking.ordering import Ordering
        from shardrec.trainer.ranking.rank import rank_rows

        ordering = Ordering(group, bid, reserve, top)
        given = (run_folder, tuple(data), out, ordering, tuple(keys or ()))
        result = rank_rows(*given, calibrated=calibrated, **chosen.arguments)
    how = "uncalibrated" if result["calibration"] is None else f"calibrated ({result['calibration']})"
    groups = f"{result['groups']} groups of {result['group']}" if result["group"] else "one group"
    typer.echo(f"{result['kept']} of {result['rows']} rows in {groups}, by step {result['step']}, {how} -> {out}")
