"""Slices on a page: a table for each feature, with a picture of the leading metric beside all rows'."""

import shlex
from collections.abc import Sequence

from shardrec.trainer.reports.chart import WIDTH
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.metric_names import titled
from shardrec.trainer.reports.numbers import count, is_number, number
from shardrec.trainer.reports.page import table
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.reports.slice_scores import SliceScore, SliceScores


def slices_section(facts: RunFacts, scores: SliceScores | None) -> Markup:
    """Returns the tables; nothing where no slices were measured. Says so where they are of another checkpoint."""
    if scores is None or not any(scores.features.values()):
        return Markup()
    parts = [element("p", f"Scores of the {scores.split} rows under step {scores.step:,}.", class_="note")]
    if not is_current(facts, scores):
        chosen = [word for name in scores.features for word in ("--slices", name)]
        command = shlex.join(["shardrec", "report", str(facts.folder.path), *chosen])
        told = "The run has another best step now, which ", element("code", command), " measures."
        parts = [element("p", f"Of the {scores.split} rows under step {scores.step:,}. ", told, class_="note warn")]
    for name, of in scores.features.items():
        parts += [element("h3", f"By {name}"), _table(of)]
    return joined(parts)


def is_current(facts: RunFacts, scores: SliceScores) -> bool:
    """Says whether slices were measured under the checkpoint that the rest of the page is about."""
    if facts.best_step is not None:
        return scores.step == facts.best_step
    return scores.step == max(facts.folder.steps(), default=scores.step)


def _table(slices: Sequence[SliceScore]) -> Markup:
    leading, *rest = slices[0].metrics
    binary = leading == "auc"
    ends = [
        value + sign * of.spread for of in slices if (value := of.metrics.get(leading)) is not None for sign in (-1, 1)
    ]
    span = (max(0.0, min(ends, default=0)), min(1.0, max(ends, default=1)) if binary else max(ends, default=1))
    rows = []
    for of in slices:
        value = of.metrics.get(leading)
        spread = f" ± {of.spread:.3f}" if binary and value is not None else ""
        picture = _picture(value, of.spread, slices[0].metrics[leading], span)
        others = [number(of.metrics.get(name)) for name in rest]
        rows.append([of.name, count(of.count), number(value) + spread, picture, *others])
    caption = "± is two standard errors; the line is all rows." if binary else "The line is all rows."
    return table(["rows", "count", titled(leading), "", *map(titled, rest)], rows, left=(0, 3), caption=caption)


def _picture(value: float | None, spread: float, whole: float | None, span: tuple[float, float]) -> Markup:
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
