"""A picture of curves has three panels (ROC, precision and recall, calibration) and a colour a split."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shardrec.trainer.run_folder.atomic import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE: dict[str, Any] = {"color": "0.6", "linewidth": 1, "linestyle": "--"}

Of = dict[str, NDArray[np.float64]]
"""The columns of one split."""


def draw_curves(
    path: Path, points: pa.Table, calibration: pa.Table, metrics: Mapping[str, Mapping[str, float]]
) -> None:
    """Draws the tables of `Curves` as SVG; metrics: split -> metrics, which legends have."""
    figure = Figure(figsize=(13.5, 4.8), layout="constrained")
    roc, precision_recall, calibrated = figure.subplots(1, 3)
    for i, split in enumerate(points["split"].unique().to_pylist()):
        of, bins, colour = _columns(points, split), _columns(calibration, split), f"C{i}"
        values = metrics[split]
        _draw_roc(roc, of, colour, f"{split}: AUC {_number(values['auc'])}")
        chance = values["label_mean"]
        _draw_precision(precision_recall, of, chance, colour, f"{split}: {_number(values['average_precision'])}")
        _draw_calibration(calibrated, bins, colour, f"{split}: {_number(values['calibration'])}")
    roc.plot([0, 1], [0, 1], **CHANCE, label="chance")
    precision_recall.plot([], [], **CHANCE, label="chance: share of positives")
    calibrated.axline((0, 0), slope=1, **CHANCE, label="calibrated")
    rates = pc.max(pa.chunked_array([*calibration["prediction_mean"].chunks, *calibration["label_mean"].chunks]))
    end = min(1.0, 1.1 * rates.as_py()) or 1.0  # clicks may all be rare
    _finish(roc, "ROC", "false positive rate", "true positive rate")
    roc.legend(loc="lower right")
    _finish(precision_recall, "Precision and recall", "recall", "precision")
    precision_recall.legend(loc="upper right", title="average precision")
    _finish(calibrated, "Calibration", "mean prediction", "share of positives", end)
    calibrated.legend(loc="best", title="mean prediction / mean label")
    write_picture(path, figure)


def _draw_roc(axes: "Axes", of: Of, colour: str, label: str) -> None:
    axes.plot(of["false_positive_rate"], of["true_positive_rate"], color=colour, label=label)


def _draw_precision(axes: "Axes", of: Of, chance: float, colour: str, label: str) -> None:
    """Draws precision as steps, whose area is the average precision."""
    axes.plot(of["recall"], of["precision"], color=colour, label=label, drawstyle="steps-pre")
    axes.axhline(chance, **CHANCE | {"color": colour})


def _draw_calibration(axes: "Axes", of: Of, colour: str, label: str) -> None:
    axes.plot(of["prediction_mean"], of["label_mean"], "o-", color=colour, label=label, markersize=4, linewidth=1)


def _finish(axes: "Axes", title: str, x: str, y: str, end: float = 1) -> None:
    """Gives both axes the range from 0 to `end`, and says what they are."""
    span = (-0.02 * end, 1.02 * end)
    axes.set(title=title, xlabel=x, ylabel=y, xlim=span, ylim=span)
    axes.grid(color="0.9")


def _columns(table: pa.Table, split: str) -> Of:
    rows = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
    return {name: rows[name].to_numpy() for name in rows.column_names}


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "undefined"
