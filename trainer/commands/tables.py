"""`shardrec tables`: how well the tables of a run are used."""

import json

import typer

from shardrec.trainer.commands.options import AsJson, NewestStep, RunPath, Trust


def tables(run_folder: RunPath, step: NewestStep = None, as_json: AsJson = False, trust: Trust = False) -> None:
    """Says how well tables are used: occupancy, evictions, (estimated) collisions of hashed ids, dead rows, norms."""
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.run_folder.terminal import status_line
    from shardrec.trainer.tables.report import table_report
    from shardrec.trainer.tables.report_view import print_tables

    if trust:
        trust_folders(run_folder)
    with status_line() as progress:
        report = table_report(run_folder, step, progress)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_tables(report)
