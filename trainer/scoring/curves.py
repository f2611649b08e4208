"""Curves of an evaluation are tables, one for all splits; as files they have a picture beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.models.metrics import CalibrationBins, MetricSet, OperatingPoints
from shardrec.trainer.config.paths import absolute_folder
from shardrec.trainer.run_folder.atomic import new_folder, write_csv
from shardrec.trainer.session.blueprint import Blueprint

ROUNDING = 1e-6
"""How far a threshold lies below the prediction that it is of: predictions are float32, and rounded as machines do."""

Columns = dict[str, list[float]]
"""A table of numbers that JSON can hold, as workers send it."""


@dataclass(frozen=True)
class Curves:
    """Curves say how well a model tells two classes apart at every threshold, and how far its probabilities hold.

    points: `split`, `threshold` (a row is called positive from this prediction on; infinity: none is), `logit` (that
    score before the sigmoid), `true_positive_rate`, `false_positive_rate`, `precision`, `recall` (the true positive
    rate again); strictest threshold first, 10,000 a split at most. calibration: `split`, `prediction_mean`,
    `label_mean`, `weight` of bins of about equal weight. metrics: split -> metrics. What rows do not define is NaN; a
    split whose scores are NaN, or whose rows have no weight, is not in the tables.
    """

    points: pa.Table
    calibration: pa.Table
    metrics: dict[str, dict[str, float]]

    @classmethod
    def of(cls, found: Mapping[str, Mapping[str, Columns]], metrics: dict[str, dict[str, float]]) -> "Curves":
        """Makes the tables of what `found_curves` found by split. Raises UserError where that is nothing in any."""
        if not any(found.values()):
            raise UserError(f"curves: {next(iter(metrics))} rows have none: their weights are 0, or scores are NaN")
        splits = {split: tables for split, tables in found.items() if tables}
        points = pa.concat_tables(_points(split, tables["points"]) for split, tables in splits.items())
        bins = pa.concat_tables(_table(split, tables["calibration"]) for split, tables in splits.items())
        return cls(points, bins, metrics)

    def write(self, out: str | Path) -> None:
        """Makes the folder `out` of the files of `fill`, all or none. Raises UserError where it holds something."""
        with new_folder(absolute_folder(Path(out)), option="folder") as folder:
            self.fill(folder)

    def fill(self, folder: Path) -> None:
        """Writes curves.parquet, curves.csv, calibration.parquet, calibration.csv and curves.svg into a folder."""
        from shardrec.trainer.scoring.curve_picture import draw_curves  # loads matplotlib, which few evaluations need

        for name, table in (("curves", self.points), ("calibration", self.calibration)):
            write_sealed(table, folder / f"{name}.parquet")
            write_csv(folder / f"{name}.csv", table.to_pylist())
        draw_curves(folder / "curves.svg", self.points, self.calibration, self.metrics)


def check_curves(blueprint: Blueprint) -> None:
    """Raises UserError for a model whose task has no curves."""
    if not blueprint.model.task.metrics().has_curves:
        raise UserError(
            f"curves: model {blueprint.config.model['name']} does not score two classes apart, which ROC and "
            "precision-recall curves are of; evaluate it without them"
        )


def found_curves(metrics: MetricSet) -> dict[str, Columns]:
    """Returns the curves of rows that were scored; none where they do not define any. All ranks call it alike."""
    found = metrics.curves()
    return {} if found is None else {"points": _columns(found[0]), "calibration": _columns(found[1])}


def _columns(table: OperatingPoints | CalibrationBins) -> Columns:
    return {name: column.tolist() for name, column in table._asdict().items()}


def _points(split: str, found: Mapping[str, Any]) -> pa.Table:
    """Adds thresholds to the scores, and recall."""
    logit = torch.tensor(found["score"], dtype=torch.float64)
    threshold = torch.sigmoid(logit) * (1 - ROUNDING)
    threshold[0] = torch.inf
    rest = {name: found[name] for name in ("true_positive_rate", "false_positive_rate", "precision")}
    return _table(
        split, {"threshold": threshold.numpy(), "logit": logit.numpy(), **rest, "recall": found["true_positive_rate"]}
    )


def _table(split: str, columns: Mapping[str, Any]) -> pa.Table:
    numbers = {name: pa.array(np.array(column, dtype=np.float64)) for name, column in columns.items()}
    length = len(next(iter(numbers.values())))
    return pa.table({"split": pa.array([split] * length), **numbers})
