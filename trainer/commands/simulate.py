"""`shardrec simulate`: policies serve simulated users, and learn from what these click."""

import os
from typing import Annotated

import typer

from shardrec.trainer.commands.options import Overrides, Quiet, RunFile

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "1")
"""A simulation's matrices are small: a second thread costs more than it gives, a hundred times where cores are busy."""


def simulate(
    run_file: RunFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the simulation that is there")] = False,
    workers: Annotated[int, typer.Option(min=1, help="episodes that run side by side, each in a process")] = 1,
    report: Annotated[bool, typer.Option("--report", help="only write and print the report of what is there")] = False,
    quiet: Quiet = False,
) -> None:
    """Lets policies serve simulated users, and says which of them come off best."""
    os.environ.setdefault(*ONE_THREAD)  # before NumPy is imported, here and in processes that inherit it
    from shardrec.trainer.run_folder.terminal import results
    from shardrec.trainer.simulation.simulate import report_again, simulate_policies

    given = tuple(overrides or ())
    if report:
        made = report_again(run_file, given)
    else:
        made = simulate_policies(run_file, given, resume=resume, workers=workers, quiet=quiet)
    made.report.print(results())
    typer.echo(f"{made.report.run}: table.csv, policies.png, metrics.parquet")
    made.check()
