"""Learning curves show training and validation over steps, with the best step, resumes and early stopping marked."""

from collections.abc import Iterable, Iterator

from shardrec.trainer.reports.chart import Axis, Chart, Dot, Line, Mark, charts
from shardrec.trainer.reports.markup import Markup, joined
from shardrec.trainer.reports.metric_names import leading_first, titled
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
_LAST = ("label_mean", "prediction_mean", "normalized_entropy", "accuracy")
"""Charts of metrics that are shown; the others are there on a click."""


def learning_curves(facts: RunFacts) -> Markup:
    """Returns a chart of the loss and one of each metric of the validation rows."""
    metrics = list(_of_metrics(facts))
    zeros = [
        Line(name.removeprefix("table/"), facts.series("zero_weights", name), i)
        for i, name in enumerate(facts.names("zero_weights"))
    ]
    sparse = Chart("Weights that are exactly 0", step_axis(facts), Axis("share", low=0.0), zeros) if zeros else None
    first = charts(*_of_losses(facts), *metrics[:SHOWN], sparse)
    return joined((first, folded("More metrics over time", charts(*metrics[SHOWN:], _of_rate(facts)))))


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


def _of_metrics(facts: RunFacts) -> Iterator[Chart]:
    losses = loss_terms(facts)
    names = leading_first(facts.names("validation"), facts.config.trainer.selection_metric)
    rest = [name for name in facts.names("validation") if name not in (*names, "rows")]
    for name in telling_first(name for name in (*names, *rest) if name not in losses):
        lines = [
            Line(title, series, colour)
            for kind, (title, colour) in SERIES.items()
            if (series := facts.series(kind, name)) and kind != "train"
        ]
        axis = Axis(titled(name) if titled(name).isupper() else titled(name).lower())
        yield Chart(titled(name), step_axis(facts), axis, lines, dots=best_dot(facts, name), marks=marks(facts))


def telling_first(names: Iterable[str]) -> list[str]:
    """Returns metrics with those last that say little over time, or the same as another one."""
    return sorted(names, key=lambda name: name in _LAST)


def best_dot(facts: RunFacts, name: str) -> list[Dot]:
    """Returns the best step's value of a validation metric as a dot, where it was recorded."""
    series: Series = facts.series("validation", name)
    at = [value for step, value in series if step == facts.best_step]
    return [Dot(float(facts.best_step or 0), at[0], f"best {number(at[0])}", SERIES["validation"][1])] if at else []


def _of_rate(facts: RunFacts) -> Chart | None:
    series = facts.series("train", "learning_rate_factor")
    if len({value for _, value in series}) < 2:
        return None
    line = Line("factor", series, 0)
    return Chart("Learning rate", step_axis(facts), Axis("factor on both rates", low=0.0), [line])
