"""Slices are rows with one value of a feature, or with a range of values, and how well they are scored apart.

An id feature's slices are its commonest values and all others; a number's are ranges of about equally many rows; those
of lists and sequences are ranges of lengths. Scores are the best checkpoint's, of the test rows, else the validation
rows.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from shardrec.data_pipeline.declared.declaration import named
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import Feature
from shardrec.data_pipeline.features.id_transforms import Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.models.metrics import Calibration, Errors, Metric, Predictions, Ranking
from shardrec.models.metrics.collective import Alone
from shardrec.trainer.reports.chart import WIDTH
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.metric_names import titled
from shardrec.trainer.reports.numbers import count, is_number, number
from shardrec.trainer.reports.page import table
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.predict import SCORE, predict_rows

MOST_VALUES = 12
RANGES = 8
LENGTHS = (0, 1, 2, 3, 6, 11, 21, 51)
"""Where ranges of lengths begin."""

Array = NDArray[Any]


class Slice(NamedTuple):
    """A slice has a name and the rows that are in it, [rows] bool."""

    name: str
    rows: Array


class Scored(NamedTuple):
    """Scored rows have predictions, labels and weights [rows], float64, and the columns that slices are made of."""

    prediction: Array
    label: Array
    weight: Array
    columns: pa.Table
    split: str


def slices_section(facts: RunFacts, features: Sequence[str], *, quiet: bool = True) -> Markup:
    """Returns a table for each feature. Raises UserError for an unknown one, and where rows cannot be scored so."""
    schema = RunFolder.open(facts.folder.path).schema()
    chosen = [_sliceable(schema, name) for name in dict.fromkeys(features)]
    binary = "auc" in facts.metrics.get("validation", facts.metrics.get("test", {}))
    if not binary and not any("rmse" in of for of in facts.metrics.values()):
        raise UserError(f"--slices: model {facts.model} does not score two classes or a number, which slices measure")
    scored = _scored(facts, schema, [feature.columns[0] for feature in chosen], quiet=quiet)
    parts = []
    for feature in chosen:
        found = [Slice("all rows", np.ones(len(scored.label), bool)), *_slices(feature, scored, facts)]
        parts += [element("h3", f"By {feature.name}"), _table(found, scored, binary=binary)]
    return joined((element("p", f"Scores of the {scored.split} rows, by the best checkpoint.", class_="note"), parts))


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
        predict_rows(facts.folder.path, given, out, keys, quiet=quiet)
        rows = pq.read_table(out)
    weight = np.ones(len(rows)) if schema.weight is None else _numbers(rows[schema.weight])
    return Scored(_numbers(rows[SCORE]), _labels(rows, label), weight, rows, split)


def _labels(rows: pa.Table, label: Label) -> Array:
    values = _numbers(rows[label.columns[0]])
    if is_number(label.missing):
        values = np.where(np.isnan(values), label.missing, values)
    return values if label.threshold is None else (values >= label.threshold).astype(np.float64)


def _numbers(column: pa.ChunkedArray) -> Array:
    """Returns a column as float64, NaN where it is null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: Array = pc.fill_null(column.cast(pa.float64(), safe=False), math.nan).to_numpy()
    return values


# ------------------------------------------------------------ which rows


def _slices(feature: Feature, scored: Scored, facts: RunFacts) -> Iterator[Slice]:
    column = scored.columns[feature.columns[0]]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return by_length(column)
    if feature.kind == "dense":
        return by_range(_numbers(column))
    return by_value(column, _vocabulary(feature, facts))


def by_value(column: pa.ChunkedArray, names: Sequence[Any] | None = None) -> Iterator[Slice]:
    """Yields the commonest values, the rows of all others together, and those without one.

    names: the raw values of ids 1, 2, ..., where the column holds such; 0 stands for unknown ones.
    """
    whole = column.combine_chunks()
    counts = sorted(whole.drop_null().value_counts().to_pylist(), key=lambda of: (-of["counts"], str(of["values"])))
    taken = counts if len(counts) <= MOST_VALUES + 1 else counts[:MOST_VALUES]
    rest = np.ones(len(whole), bool)
    for of in taken:
        rows = _where(whole, of["values"])
        rest &= ~rows
        yield Slice(_raw(of["values"], names), rows)
    missing: Array = whole.is_null().to_numpy(zero_copy_only=False)
    if (rest & ~missing).any():
        yield Slice(f"{len(counts) - len(taken):,} other values", rest & ~missing)
    if missing.any():
        yield Slice("missing", missing)


def _where(column: pa.Array, value: Any) -> Array:
    mask: Array = pc.fill_null(pc.equal(column, pa.scalar(value, column.type)), False).to_numpy(zero_copy_only=False)
    return mask


def _raw(value: Any, names: Sequence[Any] | None) -> str:
    if names is None or not isinstance(value, int):
        return str(value)
    if value == 0:
        return "unknown"
    return str(names[value - 1]) if value <= len(names) else "missing"


def by_range(values: Array) -> Iterator[Slice]:
    """Yields ranges with about equally many of the numbers, and the rows without one (NaN)."""
    known = values[~np.isnan(values)]
    if len(known):
        edges = np.unique(np.quantile(known, np.linspace(0, 1, RANGES + 1), method="lower"))
        for i, low in enumerate(edges[:-1] if len(edges) > 1 else edges):
            last = i >= len(edges) - 2
            high = edges[min(i + 1, len(edges) - 1)]
            rows = (values >= low) & ((values <= high) if last else (values < high))
            yield Slice(f"{low:.4g}" if low == high else f"{low:.4g} to {'' if last else 'below '}{high:.4g}", rows)
    if len(known) < len(values):
        yield Slice("missing", np.isnan(values))


def by_length(column: pa.ChunkedArray) -> Iterator[Slice]:
    """Yields ranges of lists' lengths that some rows have; null is the empty list."""
    lengths: Array = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    for low, end in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        last = int(lengths.max(initial=0)) if end is None else end - 1
        rows = (lengths >= low) & (lengths <= last)
        if rows.any():
            yield Slice(f"length {low}" if last == low else f"length {low} to {last}", rows)


def _vocabulary(feature: Feature, facts: RunFacts) -> list[Any] | None:
    """Returns the raw values that the ids of the rows stand for, where a vocabulary made them and is kept."""
    prepared = getattr(getattr(feature, "ids", None), "prepared", None)
    if not isinstance(prepared, Vocabulary):
        return None
    values = kept_values(facts.folder.path, prepared.path)
    return None if values is None else values.to_pylist()


# ------------------------------------------------------------ how well


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


def _table(slices: Sequence[Slice], scored: Scored, *, binary: bool) -> Markup:
    found = [(part, measured(scored, part.rows, binary=binary)) for part in slices]
    leading = "auc" if binary else "rmse"
    deviations = [_deviation(part, of, scored) if binary else 0.0 for part, of in found]
    ends = [
        of[leading] + sign * 2 * deviation
        for (_, of), deviation in zip(found, deviations, strict=True)
        for sign in (-1, 1)
        if is_number(of[leading])
    ]
    span = (max(0.0, min(ends, default=0)), min(1.0, max(ends, default=1)) if binary else max(ends, default=1))
    shown = ("label_mean", "prediction_mean", "calibration") if binary else ("mae", "label_mean", "prediction_mean")
    rows = []
    for (part, of), deviation in zip(found, deviations, strict=True):
        spread = f" ± {2 * deviation:.3f}" if binary and is_number(of[leading]) else ""
        picture = _picture(of[leading], 2 * deviation, found[0][1][leading], span)
        rest = [number(of[name]) for name in shown]
        rows.append([part.name, count(int(part.rows.sum())), number(of[leading]) + spread, picture, *rest])
    caption = "± is two standard errors; the line is all rows." if binary else "The line is all rows."
    return table(["rows", "count", titled(leading), "", *map(titled, shown)], rows, left=(0, 3), caption=caption)


def _deviation(part: Slice, of: dict[str, float], scored: Scored) -> float:
    positives = int((scored.label[part.rows] > 0.5).sum())
    negatives = int(part.rows.sum()) - positives
    return auc_deviation(of["auc"], positives, negatives) if positives and negatives and is_number(of["auc"]) else 0.0


def _picture(value: float, spread: float, whole: float, span: tuple[float, float]) -> Markup:
    """Returns a dot with its interval beside the line of all rows."""
    if not is_number(value) or not is_number(whole):
        return element("span", "not defined", class_="note")
    width, room = WIDTH / 2.6, 6.0

    def at(v: float) -> float:
        share = (min(max(v, span[0]), span[1]) - span[0]) / ((span[1] - span[0]) or 1.0)
        return room + share * (width - 2 * room)

    line = element("line", x1=at(whole), x2=at(whole), y1=0.0, y2=16.0, class_="mark")
    bar = element("line", x1=at(value - spread), x2=at(value + spread), y1=8.0, y2=8.0, class_="line s0")
    dot = element("circle", cx=at(value), cy=8.0, r=4.0, class_="f0")
    return element(
        "svg", line, bar, dot, width=f"{width:.0f}", height="16", viewBox=f"0 0 {width:.0f} 16", aria_hidden="true"
    )
