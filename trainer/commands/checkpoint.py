"""`shardrec checkpoint ...`: what is in a checkpoint, what differs between two, and tables out of and into one."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(no_args_is_help=True)

Checkpoint = Annotated[
    Path, typer.Argument(help="a run folder (its best checkpoint, else its last), or a checkpoint's")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="the folder of an earlier run", show_default=False)]
Step = Annotated[int | None, typer.Option(help="which checkpoint; default: the best, else the last")]
TableName = Annotated[str, typer.Option("--table", help="as `shardrec checkpoint show` names it", show_default=False)]
ByNumber = Annotated[bool, typer.Option("--rows", help="ids are row numbers, also where there is a vocabulary")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]

DIFFERENT, TROUBLE = 1, 2  # exit statuses, as diff has them


@app.command()
def show(
    checkpoint: Checkpoint,
    step: Step = None,
    values: Annotated[bool, typer.Option(help="read and check all rows; without, sizes of files alone")] = True,
    as_json: AsJson = False,
) -> None:
    """Tables and tower of a checkpoint: shapes, sizes, norms. Reads and checks every byte."""
    from shardrec.trainer.checkpoints.contents import checkpoint_contents, print_contents

    with Console(stderr=True).status("") as status:
        found = checkpoint_contents(checkpoint, step, values=values, progress=lambda said: status.update(escape(said)))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_contents(found)


@app.command()
def diff(a: Checkpoint, b: Checkpoint, as_json: AsJson = False) -> None:
    """What differs between two checkpoints, whatever plans wrote them. Exit status 1 where anything does."""
    from shardrec.data_pipeline.errors import UserError
    from shardrec.trainer.checkpoints.difference import compare_checkpoints

    try:
        with Console(stderr=True).status("") as status:
            found = compare_checkpoints(a, b, progress=lambda said: status.update(escape(said)))
    except (UserError, OSError) as error:
        print(f"shardrec: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(TROUBLE) from None
    typer.echo(json.dumps(found.as_json()) if as_json else str(found))
    if found.differences:
        raise typer.Exit(DIFFERENT)


@app.command()
def export(
    run_folder: RunPath,
    table: TableName,
    out: Annotated[Path, typer.Option(help="folder for the Parquet files", show_default=False)],
    step: Step = None,
    state: Annotated[bool, typer.Option("--state", help="also the optimizer's state, a column each")] = False,
    by_number: ByNumber = False,
) -> None:
    """Write a table as Parquet: `id` and `vector`."""
    from shardrec.trainer.tables.export import export_table

    found = export_table(run_folder, table, out, step, state=state, by_number=by_number)
    why = f" ({found['why']})" if found["why"] else ""
    left_out = found["num_embeddings"] - found["rows"]
    typer.echo(f"{found['rows']:,} rows x {found['embedding_dim']} of table {table!r}, step {found['step']} -> {out}")
    typer.echo(f"ids: {found['ids']}{why}")
    if left_out:
        typer.echo(f"left out: {left_out} row(s) {found['nameless']}, which have no id (--rows exports them)")


@app.command(name="import")
def import_(
    run_folder: RunPath,
    table: TableName,
    data: Annotated[list[str], typer.Option(help="Parquet files, folders, globs or URIs", show_default=False)],
    out: Annotated[Path, typer.Option(help="the run folder to make", show_default=False)],
    step: Step = None,
    by_number: ByNumber = False,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="leave out ids that are no row's")] = False,
    id_column: Annotated[str, typer.Option(help="the column of ids")] = "id",
    vector_column: Annotated[str, typer.Option(help="the column of vectors")] = "vector",
) -> None:
    """Copy a run, with rows of one table taken from Parquet: `id` and `vector`."""
    from shardrec.trainer.tables.import_rows import import_table

    columns = (id_column, vector_column)
    found = import_table(
        run_folder, table, data, out, step, by_number=by_number, skip_unknown=skip_unknown, columns=columns
    )
    why = f" ({found['why']})" if found["why"] else ""
    typer.echo(f"{found['rows']:,} of {found['of']:,} rows of table {table!r}, step {found['step']} -> {out}")
    typer.echo(f"ids: {found['ids']}{why}")
    if found["new"]:
        typer.echo(f"new: {found['new']:,} ids, which had no row and got a free one")
    if found["unknown"]:
        typer.echo(f"left out: {found['unknown']:,} ids that are no row's")
    if found["ignored"]:
        typer.echo(f"not read: {', '.join(found['ignored'])} (optimizer state of the rows starts fresh)")
