"""Final scores are how the best checkpoint tells two classes apart: ROC, precision, calibration, histograms."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardrec.trainer.reports.chart import Axis, Bars, Chart, Line, Point, charts
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
    return charts(*curve_charts(named), histogram(found[last], last))


def curve_charts(named: list[Named]) -> Iterator[Chart]:
    """Yields ROC, precision and recall, and calibration, with a line each; the first two of rows of both classes."""
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
    lines = []
    for name, i, curves, _ in named:
        bins = columns(curves, "calibration", "prediction_mean", "label_mean", "weight")
        lines.append(Line(f"{name}, ECE {number(expected_calibration_error(bins))}", [(p, y) for p, y, _ in bins], i))
    end = max((max(point) for line in lines for point in line.points), default=1.0)
    end = min(1.0, 1.08 * end) or 1.0
    return Chart(
        "Calibration", Axis("mean prediction", 0.0, end), Axis("share of positives", 0.0, end), lines,
        guides=[((0, 0), (end, end))], guide="calibrated", note="Bins of about equal weight.",
    )  # fmt: skip


def expected_calibration_error(bins: list[tuple[float, ...]]) -> float | None:
    """Returns ECE: the mean difference of prediction and label over bins (prediction, label, weight), by weight."""
    total = sum(weight for *_, weight in bins)
    return sum(abs(p - y) * weight for p, y, weight in bins) / total if total else None


def histogram(curves: Curves, split: str) -> Chart | None:
    """Returns the predictions of both classes, each as shares of its own rows."""
    part = curves.get("histogram")
    edges = [e for e in (part or {}).get("edges", []) if is_number(e)]
    bars = []
    for name, series in (("negatives", 0), ("positives", 1)):
        heights = [h if is_number(h) else 0.0 for h in (part or {}).get(name, [])]
        if len(edges) == len(heights) + 1 and (total := sum(heights)):
            bars.append(Bars(name, edges, [h / total for h in heights], series))
    if not bars:
        return None
    note = "The outermost bins hold what lies beyond them."
    return Chart(
        f"Scores of {split} rows", Axis("prediction"), Axis("share of the class", low=0.0), bars=bars, note=note
    )


def columns(curves: Curves, part: str, *names: str) -> list[tuple[Any, ...]]:
    """Returns the rows of a part's columns that are numbers throughout."""
    found = curves.get(part)
    of = [found.get(name, []) for name in names] if isinstance(found, Mapping) else []
    if not of or not all(isinstance(column, list) for column in of):
        return []
    return [row for row in zip(*of, strict=False) if all(map(is_number, row))]
