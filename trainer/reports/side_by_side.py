"""The page of several runs: their metrics with the best ones marked, curves over each other, settings that differ."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from shardrec.trainer.reports.chart import Axis, Chart, Line, Point, charts
from shardrec.trainer.reports.final_scores import Named, curve_charts
from shardrec.trainer.reports.headline import standing
from shardrec.trainer.reports.learning_curves import (
    best_dot,
    loss_terms,
    metrics_over_time,
    selected_by,
    step_axis,
    telling,
)
from shardrec.trainer.reports.lists import list_charts
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.metric_names import larger_is_better, leading_first, titled
from shardrec.trainer.reports.numbers import DASH, count, duration, is_number, number, short
from shardrec.trainer.reports.one_run import foot, report_link
from shardrec.trainer.reports.page import Section, cell, folded, notes, page, table
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.reports.settings_section import differing, shown_value
from shardrec.trainer.reports.speed_and_memory import memory_over_time, time_axis
from shardrec.trainer.reports.style import DASHES, LIGHT_SERIES

MOST_DRAWN = 24
"""Lines on a chart: eight colours, whole, dashed and dotted. The tables have all runs."""

Runs = Sequence[RunFacts]


def side_by_side_page(runs: Runs, out: Path, *, title: str = "") -> str:
    """Returns the page of two runs or more, to be written to `out`."""
    title = title or f"{len(runs)} runs side by side"
    drawn = runs[:MOST_DRAWN]
    lead = f"Metrics of the {split_of(runs)} rows under each run's best checkpoint."
    if len(runs) > MOST_DRAWN:
        lead += f" Curves are of the first {MOST_DRAWN} runs."
    sections = [
        Section("Metrics", notes(_warnings(runs)), _means(runs), _metrics(runs, out)),
        Section("Learning curves", _learning_curves(drawn)),
        Section("Lists", _lists(drawn)),
        Section("Scores", _scores(drawn)),
        Section("Speed and memory", _speed_and_memory(drawn)),
        Section("Settings that differ", _settings(runs)),
    ]
    heading = (element("h1", title), element("p", lead, class_="lead"))
    return page(f"{title} \u2013 shardrec", heading, sections, foot())


def split_of(runs: Runs) -> str:
    """Says which split's metrics are compared: the test split's, else the validation split's."""
    return "test" if any(run.metrics.get("test") for run in runs) else "validation"


def _warnings(runs: Runs) -> Iterator[str]:
    """Yields what keeps figures from being compared."""
    split = split_of(runs)
    prints = {(run.summary or {}).get("data", {}).get(split) for run in runs} - {None}
    if len(prints) > 1:
        yield f"The runs were not scored on the same {split} rows (their fingerprints differ): figures do not compare."
    if unfinished := [run.name for run in runs if not run.is_finished]:
        more = f" and {len(unfinished) - 6} more" if len(unfinished) > 6 else ""
        yield f"Unfinished: {', '.join(unfinished[:6])}{more}. What is shown of them is their best step so far."


# ------------------------------------------------------------ metrics


def _names(runs: Runs) -> list[str]:
    split = split_of(runs)
    names = list(dict.fromkeys(name for run in runs for name in run.metrics.get(split, {})))
    return leading_first(names, selected_by(runs))


def best_of(values: Sequence[object], *, larger: bool | None) -> float | None:
    """Returns the best of some values; None where there are fewer than two numbers, or no direction is better."""
    numbers = [float(value) for value in values if is_number(value)]
    if larger is None or len(numbers) < 2 or min(numbers) == max(numbers):
        return None
    return max(numbers) if larger else min(numbers)


def _marked(value: object, best: float | None) -> Markup:
    return cell(number(value), "best" if best is not None and value == best else None)


def _metrics(runs: Runs, out: Path) -> Markup:
    split, names = split_of(runs), _names(runs)
    values = {name: [run.metrics.get(split, {}).get(name) for run in runs] for name in names}
    best = {name: best_of(of, larger=larger_is_better(name)) for name, of in values.items()}
    rows = []
    for i, run in enumerate(runs):
        s = run.summary or {}
        peak = s.get("peak_memory_bytes")
        parameters = s.get("parameters") or {}
        rows.append(
            [
                report_link(run, out), run.model, standing(run), *(_marked(values[n][i], best[n]) for n in names),
                count(run.best_step), short(s.get("samples_per_second")), duration(s.get("wall_seconds")),
                f"{peak / 1e9:.2f} GB" if is_number(peak) and peak else DASH, short(parameters.get("tables")),
            ]
        )  # fmt: skip
    facts = ("best step", "rows a second", "time", "peak memory", "table parameters")
    columns = ["run", "model", "", *map(titled, names), *facts]
    return table(columns, rows, left=(0, 1, 2), caption="Each run; the best values are marked.")


def seeds_by_model(runs: Runs) -> dict[str, list[RunFacts]]:
    """Returns the runs of one group under several seeds: those whose names differ in `/seed-N` at their end alone."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        name, _, last = run.name.rpartition("/")
        groups.setdefault(name if name and last.startswith("seed-") else run.name, []).append(run)
    return groups


def series_of(runs: Runs) -> list[int]:
    """Returns each run's series: a colour a model with a dash a seed, where that is enough; else one after another."""
    groups = list(seeds_by_model(runs).values())
    if len(groups) == len(runs) or len(groups) > len(LIGHT_SERIES) or max(map(len, groups)) > len(DASHES):
        return list(range(len(runs)))
    places = {
        run.folder.path: g + len(LIGHT_SERIES) * seed for g, of in enumerate(groups) for seed, run in enumerate(of)
    }
    return [places[run.folder.path] for run in runs]


def _means(runs: Runs) -> Markup:
    """Returns mean and sample standard deviation over seeds, where runs differ in their seeds."""
    groups, split, names = seeds_by_model(runs), split_of(runs), _names(runs)
    if len(groups) == len(runs) or len(groups) < 2:
        return Markup()
    values = {
        (group, n): [v for run in of if is_number(v := run.metrics.get(split, {}).get(n))]
        for group, of in groups.items()
        for n in names
    }
    means = {key: fmean(of) if of else None for key, of in values.items()}
    best = {n: best_of([means[g, n] for g in groups], larger=larger_is_better(n)) for n in names}
    rows = []
    for group, of in groups.items():
        cells = []
        for n in names:
            spread = f" ± {stdev(values[group, n]):.4f}" if len(values[group, n]) > 1 else ""
            is_best = best[n] is not None and means[group, n] == best[n]
            cells.append(cell(number(means[group, n]) + spread, "best" if is_best else None))
        rows.append([group, count(len(of)), *cells])
    caption = "Mean and standard deviation over seeds; the best means are marked."
    return table(["", "runs", *map(titled, names)], rows, caption=caption)


# ------------------------------------------------------------ curves


def _learning_curves(runs: Runs) -> Markup:
    terms = loss_terms(runs[0])
    losses = [_overlaid(runs, "train", name, f"Training {titled(name).lower()}") for name in terms]
    names = metrics_over_time(runs)
    drawn = {name: _overlaid(runs, "validation", name, f"{titled(name)}, validation", dots=True) for name in names}
    shown = telling(names)
    more = folded("More metrics over time", charts(*(drawn[name] for name in names if name not in shown)))
    note = element("p", "The large dots are the best steps.", class_="note")
    return joined((note, shared_legend(runs), charts(*losses[:1], *(drawn[name] for name in shown)), more))


def shared_legend(runs: Runs) -> Markup | None:
    """Returns one legend for all charts of a section, which stays in sight as long as any of them is."""
    lines = [Line(run.name, [(0, 0)], i) for i, run in zip(series_of(runs), runs, strict=True)]
    return Chart("", Axis(""), Axis(""), lines).legend(shared=True)


def _overlaid(runs: Runs, kind: str, name: str, title: str, *, dots: bool = False) -> Chart:
    drawn = list(zip(series_of(runs), runs, strict=True))
    lines = [Line(run.name, run.series(kind, name), i) for i, run in drawn]
    best = [dot._replace(label="", series=i) for i, run in drawn if dots for dot in best_dot(run, name)]
    return Chart(title, step_axis(), Axis(titled(name)), lines, dots=best, has_legend=False)


def _lists(runs: Runs) -> Markup:
    split = split_of(runs)
    named = [(run.name, i, run.metrics.get(split, {})) for i, run in zip(series_of(runs), runs, strict=True)]
    drawn = [replace(chart, has_legend=False) for chart in list_charts(named)]
    popular = any(line.dotted for chart in drawn for line in chart.lines)
    note = element("p", "Dotted: the most popular items.", class_="note") if popular else None
    return joined((note, shared_legend(runs), charts(*drawn))) if drawn else Markup()


def _scores(runs: Runs) -> Markup:
    split = split_of(runs)
    named: list[Named] = [
        (run.name, i, run.curves[split], run.metrics.get(split, {}))
        for i, run in zip(series_of(runs), runs, strict=True)
        if split in run.curves
    ]
    return charts(*curve_charts(named)) if named else Markup()


def _speed_and_memory(runs: Runs) -> Markup:
    drawn = charts(_throughput(runs), _memory(runs))
    return joined((shared_legend(runs), drawn)) if drawn else Markup()


def _throughput(runs: Runs) -> Chart:
    lines = [
        Line(run.name, run.series("train", "recent_samples_per_second") or run.series("train", "samples_per_second"), i)
        for i, run in zip(series_of(runs), runs, strict=True)
    ]
    return Chart("Throughput", step_axis(), Axis("rows a second", low=0.0), lines, has_legend=False)


def _memory(runs: Runs) -> Chart | None:
    of_runs = [memory_over_time(run).series for run in runs]
    if not any(of_runs):
        return None
    unit, axis = time_axis(max(series[-1][0] for series in of_runs if series))
    drawn = zip(series_of(runs), runs, of_runs, strict=True)
    lines = [Line(run.name, list(_scaled(series, unit)), i) for i, run, series in drawn]
    return Chart("Memory", axis, Axis("GB", low=0.0), lines, has_legend=False)


def _scaled(series: Sequence[Point], unit: float) -> Iterator[Point]:
    return ((seconds / unit, size / 1e9) for seconds, size in series)


# ------------------------------------------------------------ settings


def _settings(runs: Runs) -> Markup:
    found = differing([run.config for run in runs])
    rows = [[element("code", key), *(cell(shown_value(v), "l") for v in values)] for key, values in found.items()]
    if not rows:
        return element("p", "The runs have the same settings.", class_="note")
    return table(["setting", *(run.name for run in runs)], rows, left=tuple(range(len(runs) + 1)))
