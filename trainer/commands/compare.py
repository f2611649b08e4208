"""`shardrec compare` and `contrast`: several models of one run file, and whether they differ by more than chance."""

from pathlib import Path
from typing import Annotated

import typer

from shardrec.trainer.commands.options import Overrides, Quiet, RunFile, Trust, run_path


def compare(
    run_file: RunFile,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="variants or models to compare; default: all variants")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each model, under trainer.seed 0, 1, ...")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(help="folder or URI of the comparison; default: the run file's `run`", parser=run_path),
    ] = None,
    overrides: Overrides = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Trains several models on the same data under several seeds, and prints one table; goes on where it stopped."""
    from shardrec.data_pipeline.declared.comma_lists import names_in
    from shardrec.trainer.comparison.compare import compare_models
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.reports.after_training import report_comparison
    from shardrec.trainer.run_folder.terminal import results

    if trust:
        trust_folders(run_file.parent)
    names = names_in(models or "")
    board = compare_models(run_file, names, seeds, overrides or (), out, quiet, after_run=report_comparison)
    board.print(results())
    if board.failures:
        raise typer.Exit(1)


def contrast(
    comparison: Annotated[
        Path, typer.Argument(help="the folder or URI of a comparison", show_default=False, parser=run_path)
    ],
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="each is compared with the first; default: all, by name")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="files, folders, globs or URIs; default: its test rows")
    ] = None,
    by: Annotated[str | None, typer.Option(help="a sequence; also by its length")] = None,
    draws: Annotated[int, typer.Option(min=2, help="how often users are drawn")] = 1000,
    trust: Trust = False,
) -> None:
    """Says how a comparison's models differ in AUC and GAUC, by a paired bootstrap over users."""
    from shardrec.data_pipeline.declared.comma_lists import names_in
    from shardrec.trainer.comparison.contrast import contrast_models, print_contrast
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.run_folder.terminal import messages

    if trust:
        trust_folders(comparison)
    names, paths = names_in(models or ""), tuple(data or ())
    print_contrast(contrast_models(comparison, names, data=paths, by=by, draws=draws, progress=messages().print))
