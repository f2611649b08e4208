"""A trained model is exported as a bundle, which `shardrec.Bundle` opens, or the loader that lies in it."""

from pathlib import Path
from typing import Any

from shardrec.trainer.api.door import at_least, door
from shardrec.trainer.config.trust import trust_folders
from shardrec.trainer.export.export import export_bundle
from shardrec.trainer.export.self_check import CHECKED_ROWS
from shardrec.trainer.export.table_files import Rows


@door
def export(
    run_folder: str | Path,
    out: str | Path,
    *,
    rows: Rows | None = None,
    onnx: bool = False,
    step: int | None = None,
    overwrite: bool = False,
    check: int = CHECKED_ROWS,
    trust: bool = False,
) -> dict[str, Any]:
    """Writes the bundle of a run's checkpoint to the folder `out`; returns what its `bundle.json` says.

    rows: "fp16" or "int8" store tables' rows so, where that is smaller; None: as they were trained. onnx: the tower as
    ONNX too. step: which checkpoint; None: the best, else the last. overwrite: a bundle in `out` may be replaced.
    check: so many rows are scored by the bundle and the trained model, which have to agree; 0: none. trust: the code of
    a model of somebody's own may be imported from where the run folder says.

        shardrec.export("runs/mine", "bundles/mine")
        scores = shardrec.Bundle("bundles/mine").score(frame)

    Raises UserError, with nothing left behind, where there is no such run or checkpoint, where the model cannot be
    exported, and where the scores of bundle and trained model differ by more than they may.
    """
    at_least(0, check=check)
    if trust:
        trust_folders(run_folder)
    return export_bundle(run_folder, out, rows=rows, onnx=onnx, step=step, overwrite=overwrite, checked_rows=check)
