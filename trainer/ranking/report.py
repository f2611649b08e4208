"""The report of a calibration sets errors before and after beside each other, of rows that its fits have not seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardrec.trainer.checkpoints.calibration import Calibration
from shardrec.trainer.ranking.calibrate import FEW_ROWS
from shardrec.trainer.run_folder.terminal import plain_table, print_whole


def print_calibration(run_folder: Path, result: Mapping[str, Any], picture: Path | None = None) -> None:
    """Prints what `calibrate_run` returned."""
    calibration = Calibration.model_validate(result["calibration"])
    cells = []
    for name, measured in calibration.measured.items():
        seen = ", each fifth by a fit on the others" if measured.cross_fitted else ""
        numbers = [f"{value:.4f}" for value in (*measured.ece, *measured.log_loss)]
        cells.append([f"{name}{seen}", f"{measured.rows:,}", *numbers])
    columns = ("rows of", "rows", "ECE before", "after", "log loss before", "after")
    print_whole(
        plain_table(columns, cells, left=("rows of",)),
        f"{calibration.method}, fitted on {calibration.rows:,} {calibration.split} rows by step {calibration.step} of "
        f"{run_folder} -> {Path(run_folder) / 'calibration.json'}",
        *([] if picture is None else [f"picture: {picture}"]),
        *(f"{name}: not measured: {why}" for name, why in result["not_measured"].items()),
        *(f"warning: {line}" for line in warnings(calibration, Path(run_folder) / "calibration.json")),
    )


def warnings(calibration: Calibration, file: Path) -> list[str]:
    """Returns a line for each reason not to trust a calibration, which is kept in `file`."""
    lines = []
    if calibration.method == "isotonic" and calibration.rows < FEW_ROWS:
        lines.append(
            f"an isotonic map follows fewer than {FEW_ROWS:,} rows too closely; take --method platt, or more rows"
        )
    worse = [name for name, of in calibration.measured.items() if of.log_loss[1] > of.log_loss[0]]
    if worse:
        lines.append(
            f"log loss of {' and '.join(worse)} rows was lower before: the model was as well calibrated as these rows "
            f"can tell; go without the map by `rm {file}`, or fit more rows"
        )
    return lines
