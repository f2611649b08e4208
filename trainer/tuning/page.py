"""The page of a search: its best settings, the metric over trials and over values, and the way to each trial's page."""

import os
from collections.abc import Iterator, Mapping, Sequence
from math import log10
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shardrec.trainer.config.tuning import Parameter
from shardrec.trainer.reports.after_training import warned
from shardrec.trainer.reports.chart import Axis, Chart, Cloud, Dot, Line, Point, charts
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.metric_names import titled
from shardrec.trainer.reports.numbers import DASH, count, duration, number
from shardrec.trainer.reports.one_run import foot
from shardrec.trainer.reports.page import Section, card, cell, notes, page, table, write_page
from shardrec.trainer.reports.report import REPORT
from shardrec.trainer.reports.settings_section import shown_value
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tuning.report import Findings, state_of
from shardrec.trainer.tuning.space import extremes, grid, short_key
from shardrec.trainer.tuning.study import counted
from shardrec.trainer.tuning.trial import EVALUATIONS, SECONDS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MOST_TRIALS = 300
"""Trials that the page's table has; trials.csv has all."""
MOST_KEYS = 9
"""Keys whose values are drawn."""
TICKS = range(6, 19)
"""Characters of a choice below an axis: the fewer choices, the more."""
_ROOM = 48
DECADES = 1.5
"""So wide a logarithmic range has ticks at powers of ten alone."""
_PRUNED, _BEST = 6, 1


def search_page(found: Findings, *, importance: Mapping[str, float]) -> str:
    """Returns the page of a search, finished or not. importance: key -> share; {} where there is none to tell."""
    plan = found.plan
    title = f"Search {plan.out.name}"
    better = "larger" if plan.larger_is_better else "smaller"
    wanted = plan.tune.trials
    if plan.tune.sampler == "grid":
        wanted = min(wanted, len(grid(plan.tune.space)))
    over = f"{count(counted(found.trials))} of {count(wanted)} trials are over"
    lead = f"{over}, judged by {titled(plan.metric)} of the validation rows: {better} is better."
    sections = [
        Section("Best", _failures(found), _best(found)),
        Section("Trials over time", charts(_history(found))),
        Section("What mattered", _importance(importance), charts(*_of_keys(found, list(importance)))),
        Section("Trials", _trials(found)),
    ]
    heading = (element("h1", title), element("p", lead, class_="lead"))
    return page(f"{title} \u2013 shardrec", heading, sections, foot())


def _failures(found: Findings) -> Markup:
    return notes(
        f"Failed: trial {', '.join(map(str, numbers[:8]))}{' ...' if len(numbers) > 8 else ''}: {reason}"
        for reason, numbers in found.failures().items()
    )


def _best(found: Findings) -> Markup:
    if not found.ranked:
        return element("p", "No trial has finished.", class_="note")
    plan, best = found.plan, found.ranked[0]
    states = {state: sum(state_of(trial) == state for trial in found.trials) for state in ("pruned", "failed")}
    beside = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    seconds = sum(trial.user_attrs.get(SECONDS, 0) for trial in found.trials)
    cards = [
        card(f"{titled(plan.metric)}, validation", number(best.value), f"trial {best.number}"),
        card("Finished trials", count(len(found.ranked)), beside),
        card("Time of all trials", duration(seconds)),
    ]
    rows = [
        [element("code", key), cell(_short(value), "l wrap"), cell(_searched(plan.tune.space[key]), "l wrap")]
        for key, value in found.values(best).items()
    ]
    note = element("p", element("code", f"shardrec train {found.best_file}"), " trains with these.", class_="note")
    settings = table(["setting", "best", "searched"], rows, left=(0, 1, 2))
    return joined((element("div", cards, class_="cards"), settings, note))


def _searched(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return shown_value(list(parameter.choices))
    low, high = parameter.bounds or (0, 0)
    scale = ", logarithmic" if _is_logarithmic(parameter) else ""
    return f"{shown_value(low)} to {shown_value(high)}{scale}"


def _is_logarithmic(parameter: Parameter) -> bool:
    return bool(parameter.log or parameter.log_int)


# ------------------------------------------------------------ pictures


def _history(found: Findings) -> Chart:
    finished = [trial for trial in found.trials if state_of(trial) == "finished"]
    pruned = [(t.number, t.value) for t in found.trials if state_of(t) == "pruned" and t.value is not None]
    points = [(float(t.number), float(t.value or 0)) for t in finished]
    better = max if found.plan.larger_is_better else min
    so_far: list[Point] = []
    for x, y in points:
        if so_far:
            so_far.append((x, so_far[-1][1]))
        so_far.append((x, better(y, so_far[-1][1]) if so_far else y))
    best = [Dot(float(t.number), float(t.value or 0), f"best {number(t.value)}", _BEST) for t in found.ranked[:1]]
    clouds = [Cloud("finished", points, 0), Cloud("pruned, when it was stopped", pruned, _PRUNED, hollow=True)]
    return Chart(
        titled(found.plan.metric), Axis("trial", whole=True), Axis(titled(found.plan.metric)),
        [Line("best so far", so_far, _BEST, steps=True)], clouds, dots=best,
    )  # fmt: skip


def _importance(shares: Mapping[str, float]) -> Markup:
    rows = [
        [element("code", key), f"{100 * share:.0f} %", cell(_bar(share / max(shares.values())), "l")]
        for key, share in shares.items()
    ]
    caption = "How far a key's values among the best trials differ from those among all (PED-ANOVA)."
    return table(["setting", "share", ""], rows, left=(0,), caption=caption) if shares else Markup()


def _bar(share: float) -> Markup:
    return element("span", "", class_="bar", style=f"width:{max(1.0, 160 * share):.0f}px")


def _of_keys(found: Findings, order: Sequence[str]) -> Iterator[Chart]:
    """Yields a chart of the metric over the values of each key, those that mattered most first."""
    space = found.plan.tune.space
    for key in list(dict.fromkeys((*order, *space)))[:MOST_KEYS]:
        parameter = space[key]
        place, axis = _placed(parameter)
        points = [
            (place(values[key]), float(trial.value or 0))
            for trial in found.ranked
            if key in (values := found.values(trial))
        ]
        best = [Dot(*points[0], "", _BEST)] if points and key in found.values(found.ranked[0]) else []
        y = Axis(titled(found.plan.metric))
        yield Chart(short_key(key), axis, y, clouds=[Cloud("finished", points, 0)], dots=best)


def _placed(parameter: Parameter) -> tuple[Any, Axis]:
    """Returns what makes a place on an axis of a value, and the axis."""
    if parameter.choices is not None:
        choices = [shown_value(choice) for choice in parameter.choices]
        most = min(max(_ROOM // len(choices), TICKS[0]), TICKS[-1])
        ticks = [text if len(text) <= most else f"{text[: most - 1]}…" for text in choices]
        axis = Axis("", -0.5, len(choices) - 0.5, whole=True, label_of=lambda at: ticks[round(at)])
        return lambda value: float(choices.index(shown_value(value))), axis
    low, high = map(float, extremes(parameter))
    if not _is_logarithmic(parameter):
        room = 0.03 * (high - low) or 1.0
        return float, Axis("", low - room, high + room)
    ends = log10(low), log10(high)
    room = 0.03 * (ends[1] - ends[0]) or 0.1
    whole = ends[1] - ends[0] >= DECADES
    return log10, Axis("", ends[0] - room, ends[1] + room, whole=whole, label_of=lambda at: f"{10**at:.2g}")


# ------------------------------------------------------------ trials


def _trials(found: Findings) -> Markup:
    behind = [trial for trial in found.trials if state_of(trial) != "finished"]
    ordered = [*found.ranked, *behind]
    keys = list(found.plan.tune.space)
    rows = [_row(found, trial, keys) for trial in ordered[:MOST_TRIALS]]
    columns = ["trial", "", titled(found.plan.metric), "evaluations", "time", *map(short_key, keys)]
    more = f", the first {MOST_TRIALS}; trials.csv has all" if len(ordered) > MOST_TRIALS else ""
    return table(columns, rows, left=(0, 1), caption=f"The best first{more}.")


def _row(found: Findings, trial: "FrozenTrial", keys: Sequence[str]) -> list[str | Markup]:
    values = found.values(trial)
    facts = [number(trial.value), count(trial.user_attrs.get(EVALUATIONS)), duration(trial.user_attrs.get(SECONDS))]
    settings = [_short(values[key]) if key in values else DASH for key in keys]
    return [_link(found, trial.number), state_of(trial), *facts, *settings]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown_value(value)


def _link(found: Findings, trial: int) -> Markup:
    """Returns the trial's folder, as a link to its page where there is one."""
    folder = found.folder(trial)
    if not RunFolder(folder).report_file.is_file():
        return element("span", folder.name)
    return element("a", folder.name, href=quote(os.path.relpath(folder / REPORT, found.plan.out)))


def write_search_page(found: Findings, *, importance: Mapping[str, float]) -> None:
    """Writes the page into the search's folder; a line says why where it cannot be. importance: as `search_page`."""
    with warned():
        write_page(found.plan.out / REPORT, search_page(found, importance=importance))
