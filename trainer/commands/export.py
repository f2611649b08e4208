"""`shardrec export`: a trained model as a bundle that scores on its own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from shardrec.trainer.commands.options import BestStep, RunPath, Trust


def export(
    run_folder: RunPath,
    out: Annotated[Path, typer.Option(help="the bundle's folder", show_default=False)],
    rows: Annotated[
        Literal["fp16", "int8"] | None,
        typer.Option(help="how tables' rows are stored, where that is smaller; default: as trained"),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="the tower as ONNX too, checked in onnxruntime")] = False,
    step: BestStep = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a bundle in --out")] = False,
    check: Annotated[int, typer.Option(help="rows that bundle and trained model both score; 0: none", min=0)] = 10_000,
    trust: Trust = False,
) -> None:
    """Writes a trained model as a bundle, which scores raw rows with torch, NumPy and pyarrow alone."""
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.export.export import export_bundle
    from shardrec.trainer.export.summary import lines

    if trust:
        trust_folders(run_folder)
    made = export_bundle(run_folder, out, rows=rows, onnx=onnx, step=step, overwrite=overwrite, checked_rows=check)
    for line in lines(made, out):
        typer.echo(line)
