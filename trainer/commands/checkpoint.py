"""`shardrec checkpoint ...`: what is in a checkpoint, what differs between two, and tables out of and into one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from shardrec.trainer.commands.options import AsJson, BestStep, RunPath, Trust
from shardrec.trainer.run_folder.terminal import error_line, status_line

app = typer.Typer(no_args_is_help=True)


def _location(text: str) -> Any:
    """Returns a path as it is, and what a URI names."""
    if "://" not in text:
        return Path(text)
    from shardrec.data_pipeline.stores.location import location  # loads pyarrow

    return location(text)


Checkpoint = Annotated[
    Any,
    typer.Argument(
        metavar="CHECKPOINT",
        help="a run folder (its best checkpoint, else its last), or a checkpoint's; or the URI of either",
        parser=_location,
    ),
]
TableName = Annotated[str, typer.Option("--table", help="as `shardrec checkpoint show` names it", show_default=False)]
ByNumber = Annotated[bool, typer.Option("--rows", help="ids are row numbers, also where there is a vocabulary")]

DIFFERENT, TROUBLE = 1, 2  # exit statuses, as diff has them


@app.command()
def show(
    checkpoint: Checkpoint,
    step: BestStep = None,
    values: Annotated[bool, typer.Option(help="read and check all rows; without, sizes of files alone")] = True,
    as_json: AsJson = False,
) -> None:
    """Prints tables and tower of a checkpoint: shapes, sizes, norms; reads and checks every byte."""
    from shardrec.trainer.checkpoints.contents import checkpoint_contents, print_contents

    with status_line() as progress:
        contents = checkpoint_contents(checkpoint, step, values=values, progress=progress)
    if as_json:
        typer.echo(json.dumps(contents))
    else:
        print_contents(contents)


@app.command()
def diff(a: Checkpoint, b: Checkpoint, as_json: AsJson = False) -> None:
    """Says what differs between two checkpoints, whatever plans wrote them; exit status 1 where anything does."""
    from shardrec.data_pipeline.errors import UserError
    from shardrec.trainer.checkpoints.difference import compare_checkpoints

    try:
        with status_line() as progress:
            difference = compare_checkpoints(a, b, progress=progress)
    except (UserError, OSError) as error:
        typer.echo(error_line(error), err=True)
        raise typer.Exit(TROUBLE) from None
    typer.echo(json.dumps(difference.as_json()) if as_json else str(difference))
    if difference.differences:
        raise typer.Exit(DIFFERENT)


@app.command()
def export(
    run_folder: RunPath,
    table: TableName,
    out: Annotated[Path, typer.Option(help="folder for the Parquet files", show_default=False)],
    step: BestStep = None,
    state: Annotated[bool, typer.Option("--state", help="also the optimizer's state, a column each")] = False,
    by_number: ByNumber = False,
    trust: Trust = False,
) -> None:
    """Writes a table as Parquet: `id` and `vector`."""
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.tables.export import export_table

    if trust:
        trust_folders(run_folder)
    exported = export_table(run_folder, table, out, step, state=state, by_number=by_number)
    why = f" ({exported['why']})" if exported["why"] else ""
    left_out = exported["num_embeddings"] - exported["rows"]
    typer.echo(
        f"{exported['rows']:,} rows x {exported['embedding_dim']} of table {table!r}, step {exported['step']} -> {out}"
    )
    typer.echo(f"ids: {exported['ids']}{why}")
    if left_out:
        typer.echo(f"left out: {left_out} row(s) {exported['nameless']}, which have no id (--rows exports them)")


@app.command(name="import")
def import_(
    run_folder: RunPath,
    table: TableName,
    data: Annotated[list[str], typer.Option(help="Parquet files, folders, globs or URIs", show_default=False)],
    out: Annotated[Path, typer.Option(help="the run folder to make", show_default=False)],
    step: BestStep = None,
    by_number: ByNumber = False,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="leave out ids that are no row's")] = False,
    id_column: Annotated[str, typer.Option(help="the column of ids")] = "id",
    vector_column: Annotated[str, typer.Option(help="the column of vectors")] = "vector",
    trust: Trust = False,
) -> None:
    """Copies a run, with rows of one table taken from Parquet: `id` and `vector`."""
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.tables.import_rows import import_table

    if trust:
        trust_folders(run_folder)
    columns = (id_column, vector_column)
    imported = import_table(
        run_folder, table, data, out, step, by_number=by_number, skip_unknown=skip_unknown, columns=columns
    )
    why = f" ({imported['why']})" if imported["why"] else ""
    typer.echo(f"{imported['rows']:,} of {imported['of']:,} rows of table {table!r}, step {imported['step']} -> {out}")
    typer.echo(f"ids: {imported['ids']}{why}")
    if imported["new"]:
        typer.echo(f"new: {imported['new']:,} ids, which had no row and got a free one")
    if imported["unknown"]:
        typer.echo(f"left out: {imported['unknown']:,} ids that are no row's")
    if imported["ignored"]:
        typer.echo(f"not read: {', '.join(imported['ignored'])} (optimizer state of the rows starts fresh)")
