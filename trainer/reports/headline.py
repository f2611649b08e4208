"""The head of a run's page: how it stands, its figures, a table of metrics, and what a reader should know."""

import shlex
import time
from collections.abc import Iterator

from shardrec.trainer.reports.markup import Child, Markup, element, joined
from shardrec.trainer.reports.metric_names import POPULAR, leading_first, titled
from shardrec.trainer.reports.numbers import DASH, count, duration, is_number, number, short
from shardrec.trainer.reports.page import card, cell, folded, notes, table
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.run_folder.summaries import UNDEFINED, best_attainable, left_out

CARDS_OF_METRICS = 3
OFF_CALIBRATION = 0.1


def head(facts: RunFacts) -> Markup:
    """Returns the page's title with how the run stands."""
    data = facts.config.data.path or facts.config.data.schema_path or ""
    ended = max((record.get("time", 0) for record in facts.records if is_number(record.get("time"))), default=None)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)) if ended else ""
    lead = " · ".join(filter(None, (f"model {facts.model}", f"data {data}", when)))
    return joined((element("h1", facts.name, " ", standing(facts)), element("p", lead, class_="lead")))


def standing(facts: RunFacts) -> Markup:
    """Returns a badge that says whether the run is finished."""
    if facts.summary is None:
        return element("span", "unfinished", class_="badge warn")
    word = "stopped early" if facts.summary.get("stopped_early") else "finished"
    return element("span", word, class_="badge good")


def headline(facts: RunFacts, failure: str | None = None) -> Markup:
    """Returns the figures, the table of metrics and the notes. failure: the line that the run ended with."""
    return joined((notes(_notes(facts, failure)), _cards(facts), metrics_table(facts)))


def _cards(facts: RunFacts) -> Markup:
    s = facts.summary or {}
    split = "test" if facts.metrics.get("test") else "validation"
    of_split = facts.metrics.get(split, {})
    names = leading_first(of_split, facts.config.trainer.selection_metric)
    names = [name for name in names if name != "normalized_entropy" and is_number(of_split[name])][:CARDS_OF_METRICS]
    shown = [card(f"{titled(name)}, {split}", number(of_split[name])) for name in names]
    if facts.best_step is not None:
        of = f"of {count(s.get('steps', facts.last_step))}"
        epochs = s.get("epochs_to_best")
        of += f", {epochs:.2f} epochs" if is_number(epochs) else ""
        shown.append(card("Best step", count(facts.best_step), of))
    if is_number(rate := s.get("samples_per_second")):
        workers = s.get("world_size")
        beside = f"{short(_rows(facts))} on {count(workers)} worker{'s' if workers != 1 else ''}"
        shown.append(card("Rows a second", short(rate), beside))
    else:
        shown.append(card("Rows trained on", short(_rows(facts))))
    if is_number(s.get("wall_seconds")):
        first = s.get("seconds_to_first_step")
        beside = f"first step after {duration(first)}" if is_number(first) else ""
        what = "Time, last command" if s.get("first_step") else "Time"
        shown.append(card(what, duration(s["wall_seconds"]), beside))
    if is_number(s.get("peak_memory_bytes")) and s["peak_memory_bytes"]:
        gpu = s.get("peak_device_memory_bytes")
        beside = f"of a GPU {gpu / 1e9:.2f} GB" if is_number(gpu) else ""
        shown.append(card("Peak memory", f"{s['peak_memory_bytes'] / 1e9:.2f} GB", beside))
    if isinstance(parameters := s.get("parameters"), dict):
        beside = f"and {short(parameters.get('tower'))} of the tower" if parameters.get("tower") else ""
        shown.append(card("Table parameters", short(parameters.get("tables")), beside))
    return element("div", shown, class_="cards")


def _rows(facts: RunFacts) -> float | None:
    rows = (facts.summary or {}).get("rows")
    return rows if is_number(rows) else next((y for _, y in reversed(facts.series("train", "rows"))), None)


def metrics_table(facts: RunFacts) -> Markup:
    """Returns a row a split: the metrics that people look at, then all others on a click."""
    splits = facts.metrics
    names = list(dict.fromkeys(name for of in splits.values() for name in of))
    chosen = leading_first(names, facts.config.trainer.selection_metric)
    attainable = best_attainable(facts.config)
    rows: list[list[str | Markup]] = []
    for split, of in splits.items():
        rows.append([split, *(_shown(of, name) for name in chosen)])
        if best := attainable.get(split):
            quiet = [element("span", _shown(best, name), class_="note") for name in chosen]
            rows.append([element("span", "best attainable", class_="note"), *quiet])
        if any(POPULAR + name in of for name in chosen):
            quiet = [element("span", _shown(of, POPULAR + name), class_="note") for name in chosen]
            rows.append([element("span", "most popular", class_="note"), *quiet])
    whole = table(["split", *map(titled, chosen)], rows)
    rest = [name for name in names if name not in chosen]
    others = [[titled(name), *(cell(_shown(of, name)) for of in splits.values())] for name in rest]
    return joined((whole, folded("All other metrics", table(["metric", *splits], others))))


def _shown(of: dict[str, float], name: str) -> str:
    value = of.get(name)
    if value is None:
        return UNDEFINED if name in of else DASH
    return number(value)


def _notes(facts: RunFacts, failure: str | None) -> Iterator[Child]:
    if failure:
        yield f"The last command ended with: {failure}"
    if not facts.is_finished:
        command = element("code", shlex.join(["shardrec", "train", str(facts.folder.config_file), "--resume"]))
        yield (
            f"Unfinished: recorded up to step {facts.last_step:,}. ",
            command,
            " goes on from the newest checkpoint.",
        )
    summary = dict(facts.summary or {})
    yield from left_out(summary)
    if summary and not summary.get("stopped_early") and _best_is_last(facts):
        yield "The last evaluation was the best one: more epochs may improve the model further."
    for split, of in facts.metrics.items():
        ratio = of.get("calibration")
        if is_number(ratio) and abs(ratio - 1) > OFF_CALIBRATION:
            word = "high" if ratio > 1 else "low"
            yield f"On {split} rows predictions are too {word} on average: {number(ratio, 3)} times the mean label."
    if aside := sorted(path.name for path in facts.folder.checkpoints.glob("step-*.diverged*")):
        yield f"Training diverged: {', '.join(aside[:4])} {'was' if len(aside) == 1 else 'were'} found not to be good."


def _best_is_last(facts: RunFacts) -> bool:
    steps = [record["step"] for record in facts.of_kind("validation")]
    return len(steps) > 1 and facts.best_step == max(steps)
