"""Slice scores say how well the rows of each slice are scored: by the best checkpoint, of the test or validation rows.

They are kept in the run folder, in `slices.json`, so that pages written later have them too.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shardrec.data_pipeline.declared.declaration import named
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import Feature
from shardrec.data_pipeline.features.id_transforms import Bucketize, Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.models.metrics import Calibration, Errors, Metric, Predictions, Ranking
from shardrec.models.metrics.collective import Alone
from shardrec.trainer.reports.numbers import is_number
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.reports.slices import (
    Array,
    Names,
    Slice,
    names_of_buckets,
    names_of_values,
    numbers_of,
    slices_of,
)
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.synced import forget as forget_file
from shardrec.trainer.run_folder.synced import send
from shardrec.trainer.scoring.predict import SCORE, predict_rows

BINARY = ("auc", "label_mean", "prediction_mean", "calibration")
OF_NUMBERS = ("rmse", "mae", "label_mean", "prediction_mean")
"""What is measured, the one that leads first."""


class Scored(NamedTuple):
    """Scored rows have predictions, labels and weights [rows], float64, and the columns that slices are made of."""

    prediction: Array
    label: Array
    weight: Array
    columns: pa.Table
    split: str
    step: int


@dataclass(frozen=True)
class SliceScore:
    """A slice score has a slice's name, its rows, metrics (None: not defined), and two standard errors of the first."""

    name: str
    count: int
    metrics: dict[str, float | None]
    spread: float


class SliceScores(NamedTuple):
    """Slice scores are of one checkpoint: feature -> its slices, all rows before them."""

    step: int
    split: str
    features: dict[str, list[SliceScore]]

    @classmethod
    def kept(cls, folder: RunFolder) -> "SliceScores | None":
        """Returns what was kept in a run folder; None where that is nothing, or not of the types expected."""
        with suppress(OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            found = json.loads(folder.slices_file.read_bytes())
            features = {str(name): [_score(of) for of in scores] for name, scores in found["features"].items()}
            return cls(int(found["step"]), str(found["split"]), features)
        return None

    def keep(self, folder: RunFolder) -> None:
        """Puts them in the place of earlier ones; a folder that cannot be written costs nothing."""
        features = {name: [asdict(score) for score in scores] for name, scores in self.features.items()}
        with suppress(OSError, StoreError):
            write_atomically(folder.slices_file, json.dumps(self._asdict() | {"features": features}) + "\n")
            send(folder.slices_file)


def forget(folder: RunFolder) -> None:
    """Removes what was kept."""
    with suppress(OSError, StoreError):
        forget_file(folder.slices_file)


def _score(of: Mapping[str, Any]) -> SliceScore:
    metrics = {str(name): value if is_number(value) else None for name, value in of["metrics"].items()}
    if not metrics:
        raise ValueError("no metrics")
    spread = of["spread"] if is_number(of["spread"]) else 0.0
    return SliceScore(str(of["name"]), int(of["count"]), metrics, spread)


# ------------------------------------------------------------ how they are measured


def slice_scores(facts: RunFacts, features: Sequence[str], *, quiet: bool = True) -> SliceScores:
    """Scores the rows. Raises UserError for an unknown feature, and where rows cannot be scored so."""
    schema = RunFolder.open(facts.folder.path).schema()
    chosen = [_sliceable(schema, name) for name in dict.fromkeys(features)]
    binary = "auc" in facts.metrics.get("validation", facts.metrics.get("test", {}))
    if not binary and not any("rmse" in of for of in facts.metrics.values()):
        raise UserError(f"--slices: model {facts.model} does not score two classes or a number, which slices measure")
    scored = _scored(facts, schema, [feature.columns[0] for feature in chosen], quiet=quiet)
    whole = Slice("all rows", np.ones(len(scored.label), bool))
    found = {}
    for feature in chosen:
        column = scored.columns[feature.columns[0]]
        parts = slices_of(column, ranges=feature.kind == "dense", names=_names(feature, facts))
        found[feature.name] = [score_of(scored, part, binary=binary) for part in (whole, *parts)]
    return SliceScores(scored.step, scored.split, found)


def _sliceable(schema: Schema, name: str) -> Feature:
    feature: Feature = named("feature", name, {f.name: f for f in schema.features}, "--slices: ")
    if len(feature.columns) > 1 and getattr(feature, "cross", None) is not None:
        raise UserError(f"--slices {name}: a cross of {', '.join(feature.columns)}; name one of these features")
    return feature


def _scored(facts: RunFacts, schema: Schema, columns: Sequence[str], *, quiet: bool) -> Scored:
    data, split = facts.config.data, "test"
    paths = data.split(split)
    if paths is None:
        split = "validation"
        paths = data.split(split)
    if paths is None:
        raise UserError(f"{facts.folder.path}: its data have no test or validation rows, which slices are of")
    label = next((x for x in schema.labels if x.name == facts.config.model.get("label")), schema.labels[0])
    keys = tuple(dict.fromkeys(filter(None, (label.columns[0], schema.weight, *columns))))
    with tempfile.TemporaryDirectory(prefix="shardrec-report-") as scratch:
        out = Path(scratch) / "scores"
        given = (paths,) if isinstance(paths, str) else tuple(paths)
        told = predict_rows(facts.folder.path, given, out, keys, quiet=quiet) or {}
        rows = pq.read_table(out)
    weight = np.ones(len(rows)) if schema.weight is None else numbers_of(rows[schema.weight])
    return Scored(numbers_of(rows[SCORE]), _labels(rows, label), weight, rows, split, told.get("step", 0))


def _labels(rows: pa.Table, label: Label) -> Array:
    values = numbers_of(rows[label.columns[0]])
    if is_number(label.missing):
        values = np.where(np.isnan(values), label.missing, values)
    return values if label.threshold is None else (values >= label.threshold).astype(np.float64)


def _names(feature: Feature, facts: RunFacts) -> Names | None:
    """Returns what the ids of the rows stand for, where buckets made them, or a vocabulary that is kept."""
    prepared = getattr(getattr(feature, "ids", None), "prepared", None)
    if isinstance(prepared, Bucketize):
        return names_of_buckets(prepared.boundaries)
    if not isinstance(prepared, Vocabulary):
        return None
    values = kept_values(facts.folder.path, prepared.path)
    return None if values is None else names_of_values(values.to_pylist())


def score_of(scored: Scored, part: Slice, *, binary: bool) -> SliceScore:
    """Returns how a slice's rows are scored."""
    found = measured(scored, part.rows, binary=binary)
    metrics = {name: found[name] if is_number(found[name]) else None for name in (BINARY if binary else OF_NUMBERS)}
    spread = 2 * _deviation(part, metrics["auc"], scored) if binary else 0.0
    return SliceScore(part.name, int(part.rows.sum()), metrics, spread)


def measured(scored: Scored, rows: Array, *, binary: bool) -> dict[str, float]:
    """Returns the metrics of some rows: AUC and calibration, or errors; those that they do not define are NaN."""
    tensors = [torch.from_numpy(np.ascontiguousarray(of[rows])) for of in scored[:3]]
    predictions = Predictions(score=tensors[0], value=tensors[0], label=tensors[1], weight=tensors[2], group=None)
    metrics: list[Metric] = [Ranking(), Calibration()] if binary else [Errors()]
    found: dict[str, float] = {}
    for metric in metrics:
        metric.update(predictions)
        found |= metric.compute(Alone())
    return found


def auc_deviation(auc: float, positives: int, negatives: int) -> float:
    """Returns the standard error of an AUC (Hanley and McNeil, Radiology 143 (1), 1982, eq. 1), of rows alike."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc * auc) + (negatives - 1) * (q2 - auc * auc)
    return math.sqrt(max(0.0, spread) / (positives * negatives))


def _deviation(part: Slice, auc: float | None, scored: Scored) -> float:
    positives = int((scored.label[part.rows] > 0.5).sum())
    negatives = int(part.rows.sum()) - positives
    return 0.0 if auc is None or not positives or not negatives else auc_deviation(auc, positives, negatives)
