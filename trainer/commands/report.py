"""`shardrec report`: a run, or several side by side, on one page."""

from pathlib import Path
from typing import Annotated

import typer

from shardrec.trainer.commands.options import Quiet, Trust, run_path


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_FOLDER...",
            help="folders or URIs of runs, or of a comparison",
            show_default=False,
            parser=run_path,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="the page; default: report.html in the one folder given")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="score rows, and measure them by these features' values; '' forgets them"),
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Writes one page of a run, finished or not, or of several side by side."""
    from shardrec.data_pipeline.declared.comma_lists import names_in
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.reports.report import report_runs

    if trust:
        trust_folders(*runs)
    features = None if slices is None else [name for text in slices for name in names_in(text)]
    typer.echo(f"report: {report_runs(runs, out, slices=features, quiet=quiet)}")
