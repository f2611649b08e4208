"""Learning curves show training and validation over steps, with the best step, resumes and early stopping marked."""

from collections.abc import Iterable, Iterator, Sequence

from shardrec.trainer.reports.chart import Axis, Chart, Dot, Line, Mark, charts
from shardrec.trainer.reports.markup import Markup, joined
from shardrec.trainer.reports.metric_names import POPULAR, leading_first, titled
from shardrec.trainer.reports.numbers import count, number
from shardrec.trainer.reports.page import folded
from shardrec.trainer.reports.run_facts import RunFacts, Series

SERIES = {
    "train": ("training", 0),
    "validation": ("validation", 1),
    "test": ("test", 2),
    "progressive": ("progressive", 3),
}
"""Kind of record -> what legends call it, and its colour, on all charts of a page."""

_OF_THE_CLOCK = ("learning_rate_factor", "rows", "samples_per_second", "recent_samples_per_second")
SHOWN = 5
"""Charts of metrics that are shown; the others are there on a click."""
_LAST = ("label_mean", "prediction_mean", "normalized_entropy", "accuracy")
_CONSTANT = (
    "rows",
    "users",
    "label_mean",
    "gauc_groups",
    "gauc_skipped_groups",
    "top_k_groups",
    "top_k_skipped_groups",
)
"""What is of the rows, and so the same at each evaluation, as the figures of the most popular items are."""


def learning_curves(facts: RunFacts) -> Markup:
    """Returns a chart of the loss and one of each metric of the validation rows."""
    metrics = {name: _of_metric(facts, name) for name in metrics_over_time([facts])}
    zeros = [
        Line(name.removeprefix("table/"), facts.series("zero_weights", name), i)
        for i, name in enumerate(facts.names("zero_weights"))
    ]
    sparse = Chart("Weights that are exactly 0", step_axis(facts), Axis("share", low=0.0), zeros) if zeros else None
    shown = telling(metrics)
    more = [chart for name, chart in metrics.items() if name not in shown]
    first = charts(*_of_losses(facts), *(metrics[name] for name in shown), sparse)
    return joined((first, folded("More metrics over time", charts(*more, _of_rate(facts)))))


def step_axis(facts: RunFacts | None = None) -> Axis:
    """Returns the axis of steps, which says how many make an epoch."""
    of_epoch = facts.steps_per_epoch if facts else None
    return Axis(f"step ({count(of_epoch)} an epoch)" if of_epoch else "step", low=0.0, whole=True)


def loss_terms(facts: RunFacts) -> list[str]:
    """Returns the terms of the training loss: the one that there is, or the sum and its parts."""
    names = [name for name in facts.names("train") if name not in _OF_THE_CLOCK]
    parts = [name for name in names if name != "loss"]
    return parts if len(parts) == 1 else names


def marks(facts: RunFacts, *, best: bool = False) -> list[Mark]:
    """Returns where the run was gone on with, where it stopped early and, if asked for, its best step."""
    found = [Mark(float(step), "resumed") for step in facts.resumed_at]
    if facts.summary and facts.summary.get("stopped_early"):
        found.append(Mark(float(facts.last_step), "stopped early"))
    if best and facts.best_step is not None:
        found.append(Mark(float(facts.best_step), "best"))
    return found


def _of_losses(facts: RunFacts) -> Iterator[Chart]:
    terms = loss_terms(facts)
    for name in terms:
        lines = [
            Line(title, series, colour)
            for kind, (title, colour) in SERIES.items()
            if (series := facts.series(kind, name)) and (kind != "test" or len(series) > 1)
        ]
        if terms == ["loss"] and (other := facts.series("validation", "log_loss")):
            lines = [line._replace(name="training loss") for line in lines]
            lines.append(Line("validation log loss", other, SERIES["validation"][1]))
        title = "Loss" if name == "loss" else titled(name)
        yield Chart(title, step_axis(facts), Axis(titled(name).lower()), lines, marks=marks(facts, best=True))


def _of_metric(facts: RunFacts, name: str) -> Chart:
    lines = [
        Line(title, series, colour)
        for kind, (title, colour) in SERIES.items()
        if (series := facts.series(kind, name)) and kind != "train"
    ]
    if popular := facts.series("validation", POPULAR + name):
        lines.append(Line("most popular", popular, len(SERIES) + 2, dotted=True))
    axis = Axis(titled(name) if titled(name).isupper() else titled(name).lower())
    return Chart(titled(name), step_axis(facts), axis, lines, dots=best_dot(facts, name), marks=marks(facts))


def metrics_over_time(runs: Sequence[RunFacts]) -> list[str]:
    """Returns the metrics of the validation rows that have a chart, beside those of the losses."""
    losses = loss_terms(runs[0])
    names = list(dict.fromkeys(name for run in runs for name in run.names("validation")))
    first = leading_first(names, selected_by(runs))
    return [
        name
        for name in dict.fromkeys((*first, *names))
        if name not in (*losses, *_CONSTANT) and not name.startswith(POPULAR)
    ]


def selected_by(runs: Sequence[RunFacts]) -> str | None:
    """Returns the metric that runs are selected by: where they differ the first of lists, whose length others have."""
    metrics = [run.config.trainer.selection_metric for run in runs]
    return next((metric for metric in metrics if metric and "@" in metric), metrics[0])


def telling(names: Iterable[str]) -> list[str]:
    """Returns the metrics that are shown at once; others say little over time, or the same as another one."""
    return [name for name in names if name not in _LAST][:SHOWN]


def best_dot(facts: RunFacts, name: str) -> list[Dot]:
    """Returns the best step's value of a validation metric as a dot, where it was recorded."""
    series: Series = facts.series("validation", name)
    at = [value for step, value in series if step == facts.best_step]
    if not at:
        return []
    is_selected = name == (facts.config.trainer.selection_metric or next(iter(facts.names("validation")), None))
    label = f"best {number(at[0])}" if is_selected else f"{number(at[0])} at the best step"
    return [Dot(float(facts.best_step or 0), at[0], label, SERIES["validation"][1])]


def _of_rate(facts: RunFacts) -> Chart | None:
    series = facts.series("train", "learning_rate_factor")
    if len({value for _, value in series}) < 2:
        return None
    line = Line("factor", series, 0)
    return Chart("Learning rate", step_axis(facts), Axis("factor on both rates", low=0.0), [line])
