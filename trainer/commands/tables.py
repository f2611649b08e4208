"""`shardrec tables`: how well the tables of a run are used."""

import json

import typer

from shardrec.trainer.commands.options import AsJson, NewestStep, RunPath


def tables(run_folder: RunPath, step: NewestStep = None, as_json: AsJson = False) -> None:
    """Says how well tables are used: occupancy, evictions, (estimated) collisions of hashed ids, dead rows, norms."""
    from shardrec.trainer.run_folder.terminal import status_line
    from shardrec.trainer.tables.report import table_report
    from shardrec.trainer.tables.report_view import print_tables

    with status_line() as progress:
        report = table_report(run_folder, step, progress)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_tables(report)
