"""Final scores are pictures of the best checkpoint's predictions.

Of two classes they are ROC, precision and recall, calibration, and a histogram of either class; of numbers, means of
labels by prediction, and histograms of predictions beside labels and of errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shardrec.trainer.reports.chart import Axis, Bars, Chart, Line, Mark, Point, charts
from shardrec.trainer.reports.learning_curves import SERIES
from shardrec.trainer.reports.markup import Markup
from shardrec.trainer.reports.numbers import is_number, number
from shardrec.trainer.reports.run_facts import RunFacts

Curves = Mapping[str, Any]
RECALL = "true_positive_rate"

Named = tuple[str, int, Curves, Mapping[str, Any]]
"""Name in the legend, series, curves, metrics."""


def final_scores(facts: RunFacts) -> Markup:
    """Returns the charts of all splits whose curves were kept; nothing of a task without them."""
    found = {split: of for split, of in facts.curves.items() if split in SERIES}
    if not found:
        return Markup()
    named: list[Named] = [(split, SERIES[split][1], of, facts.metrics.get(split, {})) for split, of in found.items()]
    last = "test" if "test" in found else next(iter(found))
    return charts(*curve_charts(named), histogram(found[last], last), *value_charts(found[last], last))


def curve_charts(named: list[Named]) -> Iterator[Chart]:
    """Yields ROC, precision and recall, and calibration, with a line each; the first two of rows of both classes.

    Of predicted numbers there is the last alone.
    """
    every, named = named, [item for item in named if item[3].get("auc", 0.0) is not None]
    roc = [
        Line(f"{name}, AUC {number(of.get('auc'))}", columns(c, "points", "false_positive_rate", RECALL), i)
        for name, i, c, of in named
    ]
    x, y = Axis("false positive rate", 0.0, 1.0), Axis("true positive rate", 0.0, 1.0)
    yield Chart("ROC", x, y, roc, guides=[((0, 0), (1, 1))], guide="chance")
    recall = [
        Line(
            f"{name}, average {number(of.get('average_precision'))}",
            columns(c, "points", RECALL, "precision"), i, steps=True,
        )
        for name, i, c, of in named
    ]  # fmt: skip
    chance = [of["label_mean"] for *_, of in named if is_number(of.get("label_mean"))][-1:]
    guides: list[tuple[Point, Point]] = [((0, share), (1, share)) for share in chance]
    yield Chart("Precision and recall", Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0), recall,
                guides=guides, guide="chance: share of positives")  # fmt: skip
    yield _calibration(every)


def _calibration(named: list[Named]) -> Chart:
    lines, numbers = [], any("values" in curves for *_, curves, _ in named)
    for name, i, curves, _ in named:
        bins = columns(curves, "calibration", "prediction_mean", "label_mean", "weight")
        off = f"{'mean distance' if numbers else 'ECE'} {number(expected_calibration_error(bins))}"
        lines.append(Line(f"{name}, {off}", [(p, y) for p, y, _ in bins], i))
    found = [of for line in lines for point in line.points for of in point]
    low, end = (min(found, default=0.0) if numbers else 0.0), max(found, default=1.0)
    room = 0.08 * (end - low) or 0.05 * abs(end) or 1.0
    low, end = (low - room, end + room) if numbers else (0.0, min(1.0, end + room) or 1.0)
    y = "mean label" if numbers else "share of positives"
    return Chart(
        "Calibration", Axis("mean prediction", low, end), Axis(y, low, end), lines,
        guides=[((low, low), (end, end))], guide="calibrated", note="Bins of about equal weight.",
    )  # fmt: skip


def expected_calibration_error(bins: list[tuple[float, ...]]) -> float | None:
    """Returns ECE: the mean difference of prediction and label over bins (prediction, label, weight), by weight."""
    total = sum(weight for *_, weight in bins)
    return sum(abs(p - y) * weight for p, y, weight in bins) / total if total else None


def histogram(curves: Curves, split: str) -> Chart | None:
    """Returns the predictions of both classes, each as shares of its own rows."""
    bars = _shares(curves, "histogram", ("negatives", "positives"))
    return _histogram(f"Scores of {split} rows", "prediction", "share of the class", bars)


def value_charts(curves: Curves, split: str) -> Iterator[Chart | None]:
    """Yields predicted numbers beside labels, and errors, as shares of the rows."""
    bars = _shares(curves, "values", ("labels", "predictions"))
    yield _histogram(f"Predictions and labels of {split} rows", "value", "share of rows", bars)
    bars = [of._replace(name="errors") for of in _shares(curves, "errors", ("weight",))]
    chart = _histogram(f"Errors of {split} rows", "prediction less label", "share of rows", bars)
    yield replace(chart, marks=[Mark(0.0, "")]) if chart else None


def _shares(curves: Curves, part: str, names: Sequence[str]) -> list[Bars]:
    """Returns columns of weights as shares of their own sum; none of what are no histograms."""
    found = curves.get(part)
    held = found if isinstance(found, Mapping) else {}
    edges = [e for e in _listed(held.get("edges")) if is_number(e)]
    bars = []
    for series, name in enumerate(names):
        heights = [h if is_number(h) else 0.0 for h in _listed(held.get(name))]
        if len(edges) == len(heights) + 1 and (total := sum(heights)):
            bars.append(Bars(name, edges, [h / total for h in heights], series))
    return bars


def _histogram(title: str, x: str, y: str, bars: list[Bars]) -> Chart | None:
    note = "The outermost bins hold what lies beyond them."
    return Chart(title, Axis(x), Axis(y, low=0.0), bars=bars, note=note) if bars else None


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def columns(curves: Curves, part: str, *names: str) -> list[tuple[Any, ...]]:
    """Returns the rows of a part's columns that are numbers throughout."""
    found = curves.get(part)
    of = [found.get(name, []) for name in names] if isinstance(found, Mapping) else []
    if not of or not all(isinstance(column, list) for column in of):
        return []
    return [row for row in zip(*of, strict=False) if all(map(is_number, row))]
