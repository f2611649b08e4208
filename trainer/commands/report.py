"""`shardrec report`: a run, or several side by side, on one page."""

from pathlib import Path
from typing import Annotated

import typer

from shardrec.trainer.commands.options import Quiet, Trust


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_FOLDER...", help="folders of runs, or of a comparison", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="the page; default: report.html in the one folder given")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option(metavar="FEATURE", help="score rows, and measure them by this feature's values")
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Writes one page of a run, finished or not, or of several side by side."""
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.reports.report import report_runs

    if trust:
        trust_folders(*runs)
    typer.echo(f"report: {report_runs(runs, out, slices=tuple(slices or ()), quiet=quiet)}")
