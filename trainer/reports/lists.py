"""Lists of the whole catalogue are measured at several lengths: recall and NDCG by length, beside the most popular."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shardrec.trainer.reports.chart import Axis, Chart, Line, charts
from shardrec.trainer.reports.learning_curves import SERIES
from shardrec.trainer.reports.markup import Markup
from shardrec.trainer.reports.metric_names import POPULAR, titled
from shardrec.trainer.reports.numbers import is_number
from shardrec.trainer.reports.run_facts import RunFacts, Series

KINDS = ("recall", "ndcg", "coverage")

Measured = tuple[str, int, Mapping[str, Any]]
"""Name in the legend, series, metrics."""


def lists_of_run(facts: RunFacts) -> Markup:
    """Returns the charts of a run's splits; nothing where lists of one length alone were measured."""
    named = [(split, SERIES[split][1], of) for split, of in facts.metrics.items() if split in SERIES]
    return charts(*list_charts(named))


def list_charts(named: Sequence[Measured]) -> Iterator[Chart]:
    """Yields a chart of each kind of metric that was measured at two lengths or more."""
    for kind in KINDS:
        lines = [Line(name, by_length(of, kind), i) for name, i, of in named]
        if max((len(line.points) for line in lines), default=0) < 2:
            continue
        if popular := next((s for *_, of in reversed(named) if (s := by_length(of, POPULAR + kind))), []):
            lines.append(Line("most popular", popular, len(SERIES) + len(named), dotted=True))
        title = titled(f"{kind}@").removesuffix("@")
        yield Chart(f"{title} by length", Axis("length of the list", low=0.0), Axis(title, low=0.0), lines)


def by_length(metrics: Mapping[str, Any], kind: str) -> Series:
    """Returns (K, value) of the metrics `KIND@K`, by K."""
    found = [(name.removeprefix(f"{kind}@"), value) for name, value in metrics.items() if name.startswith(f"{kind}@")]
    return sorted((float(k), float(value)) for k, value in found if k.isdigit() and is_number(value))
