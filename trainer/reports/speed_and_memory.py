"""Throughput by steps, and memory over the time that commands trained in a run folder."""

from typing import NamedTuple

from shardrec.trainer.reports.chart import Axis, Chart, Dot, Line, Mark, charts
from shardrec.trainer.reports.learning_curves import marks, step_axis
from shardrec.trainer.reports.markup import Markup
from shardrec.trainer.reports.numbers import is_number
from shardrec.trainer.reports.run_facts import RunFacts, Series

_UNITS = ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def speed_and_memory(facts: RunFacts) -> Markup:
    """Returns both charts; a run folder of an earlier version has no memory over time."""
    return charts(_throughput(facts), _memory(facts))


def _throughput(facts: RunFacts) -> Chart:
    recent = facts.series("train", "recent_samples_per_second")
    mean = facts.series("train", "samples_per_second")
    lines = [Line("since the line before", recent, 0), Line("mean so far", mean, 1)]
    note = "Of training alone: not evaluations, checkpoints and the first steps."
    return Chart("Throughput", step_axis(facts), Axis("rows a second", low=0.0), lines, marks=marks(facts), note=note)


class Memory(NamedTuple):
    """Memory over time is bytes by seconds of training commands in turn; `begun` is where later ones begin."""

    series: Series
    begun: list[float]


def memory_over_time(facts: RunFacts) -> Memory:
    """Returns what the commands recorded, without the time between them."""
    series: Series = []
    begun: list[float] = []
    elapsed, base = 0.0, None
    for line in facts.launches:
        at, kind = line.get("time"), line.get("kind")
        if not is_number(at):
            continue
        if kind == "launch":
            if series:
                elapsed = series[-1][0]
                begun.append(elapsed)
            base = at
        elif kind == "memory" and base is not None and is_number(line.get("bytes")) and at >= base:
            series.append((elapsed + at - base, float(line["bytes"])))
    return Memory(series, begun)


def time_axis(seconds: float) -> tuple[float, Axis]:
    """Returns by how much to divide seconds, and the axis of what comes out."""
    _, unit, name = next(u for u in _UNITS if seconds >= u[0])
    return unit, Axis(name, low=0.0)


def _memory(facts: RunFacts) -> Chart | None:
    series, begun = memory_over_time(facts)
    if not series:
        return None
    unit, axis = time_axis(series[-1][0])
    points = [(seconds / unit, size / 1e9) for seconds, size in series]
    x, y = max(points, key=lambda point: point[1])
    note = "All processes of the run on the machine that launched it; shared pages count once."
    return Chart(
        "Memory", axis, Axis("GB", low=0.0), [Line("memory", points, 2, steps=False)],
        dots=[Dot(x, y, f"peak {y:.2f} GB", 2)], marks=[Mark(at / unit, "next command") for at in begun], note=note,
    )  # fmt: skip
