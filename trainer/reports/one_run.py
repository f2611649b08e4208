"""The page of one run, and that of a run of stages, which leads to the pages of its stages."""

import os
import time
from pathlib import Path
from urllib.parse import quote

from shardrec.trainer.reports.final_scores import final_scores
from shardrec.trainer.reports.headline import head, headline, standing
from shardrec.trainer.reports.learning_curves import learning_curves
from shardrec.trainer.reports.lists import lists_of_run
from shardrec.trainer.reports.markup import Markup, element
from shardrec.trainer.reports.metric_names import leading_first, titled
from shardrec.trainer.reports.numbers import DASH, count, duration, number
from shardrec.trainer.reports.page import Section, notes, page, table
from shardrec.trainer.reports.plan_section import plan_section
from shardrec.trainer.reports.provenance import provenance
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.reports.settings_section import settings_section
from shardrec.trainer.reports.slice_scores import SliceScores
from shardrec.trainer.reports.slices_section import slices_section
from shardrec.trainer.reports.speed_and_memory import speed_and_memory
from shardrec.trainer.reports.table_health import table_health


def run_page(facts: RunFacts, *, budget: int, failure: str | None = None) -> str:
    """Returns the page of one run. budget: bytes of tables that are read for it."""
    sections = [
        Section("Figures", headline(facts, failure)),
        Section("Learning curves", learning_curves(facts)),
        Section("Lists", lists_of_run(facts)),
        Section("Scores", final_scores(facts)),
        Section("Slices", slices_section(facts, SliceScores.kept(facts.folder))),
        Section("Speed and memory", speed_and_memory(facts)),
        Section("Plan", plan_section(facts)),
        Section("Tables", table_health(facts, budget)),
        Section("Settings", settings_section(facts)),
        Section("Where it comes from", provenance(facts)),
    ]
    return page(f"{facts.name} \u2013 shardrec", head(facts), sections, foot())


def stages_page(path: Path, stages: dict[str, RunFacts | None], out: Path, failure: str | None = None) -> str:
    """Returns the page of a run of stages, to be written to `out`; a stage that has not begun is None."""
    begun = [facts for facts in stages.values() if facts is not None]
    split = "test" if any(facts.metrics.get("test") for facts in begun) else "validation"
    names = list(dict.fromkeys(name for facts in begun for name in facts.metrics.get(split, {})))
    names = leading_first(names, None)
    rows: list[list[str | Markup]] = []
    for name, facts in stages.items():
        if facts is None:
            rows.append([name, element("span", "not begun", class_="note")])
            continue
        s = facts.summary or {}
        of = facts.metrics.get(split, {})
        link = report_link(facts, out)
        figures = [count(s.get("steps", facts.last_step)), duration(s.get("wall_seconds"))]
        rows.append(
            [link, standing(facts), facts.model, *(number(of.get(n)) if n in of else DASH for n in names), *figures]
        )
    columns = ["stage", "", "model", *(f"{titled(n)}, {split}" for n in names), "steps", "time"]
    lead = "A run of stages, each of which has a page of its own."
    title = (element("h1", path.name), element("p", lead, class_="lead"))
    told = notes([f"The last command ended with: {failure}"] if failure else [])
    stages_section = Section("Stages", told, table(columns, rows, left=(0, 1, 2)))
    return page(f"{path.name} \u2013 shardrec", title, [stages_section], foot())


def report_link(facts: RunFacts, out: Path) -> Markup:
    """Returns the run's name, as a link from the page at `out` to the run's own page where there is one."""
    target = facts.folder.report_file
    if not target.is_file() or target == out:
        return element("span", facts.name)
    return element("a", facts.name, href=quote(os.path.relpath(target, out.parent)))


def foot() -> str:
    """Returns the line below a page."""
    return f"Written by shardrec on {time.strftime('%Y-%m-%d %H:%M')}. This page needs no other file and no network."
