"""Table health on a page is what `shardrec tables` tells, of those tables that are read in a moment."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.checkpoints.saved_tables import SavedRows
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.numbers import DASH, count, number
from shardrec.trainer.reports.page import table
from shardrec.trainer.reports.run_facts import RunFacts
from shardrec.trainer.tables.report import table_report

AT_ONCE = 64 << 20
"""Bytes that are read for a page that training writes at its end: a fraction of a second."""
ON_REQUEST = 1 << 30
"""Bytes that are read for a page that a user asked for."""

_COLUMNS = (
    "table",
    "ids",
    "rows",
    "dim",
    "used",
    "never used",
    "distinct ids",
    "sharing a row",
    "mean norm",
    "largest",
)
_ID_MAPS = ("id map", "rows", "occupied", "admissions", "evictions", "refused", "candidates", "occurrences")


def table_health(facts: RunFacts, budget: int) -> Markup:
    """Returns what the newest checkpoint tells of its tables, smallest first, as many as `budget` bytes allow."""
    if not facts.folder.steps():
        return Markup()
    try:
        chosen, left_out = _within(SavedModel.of(facts.folder, newest=True), budget)
        report = table_report(facts.folder.path, only=chosen)
    except UserError as error:
        return element("p", f"Not looked at: {error}", class_="note")
    rows = [_line(name, of) for name, of in report["tables"].items()]
    maps = [[name, *(count(of.get(key)) for key in _ID_MAPS[1:])] for name, of in report["id_maps"].items()]
    parts = [table(_COLUMNS, rows, left=(0, 1), caption=f"Checkpoint step-{report['step']}"), table(_ID_MAPS, maps)]
    if left_out:
        names = ", ".join(left_out[:8]) + (f" and {len(left_out) - 8} more" if len(left_out) > 8 else "")
        parts.append(
            element(
                "p", f"Too large to be read for this page: {names}. ",
                element("code", f"shardrec tables {facts.folder.path}"), " reads all of them.", class_="note",
            )
        )  # fmt: skip
    return joined(parts)


def _within(saved: SavedModel, budget: int) -> tuple[Callable[[str], bool], list[str]]:
    """Returns which tables and id maps to read, by name, and the names of the others."""
    sizes = {name: _bytes(of) for name, of in saved.tables.items()}
    sizes |= {f"id map {name}": _bytes(of.rows) for name, of in saved.id_maps.items()}
    chosen: set[str] = set()
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        if size > budget:
            break
        budget -= size
        chosen.add(name)
    for name, of in saved.tables.items():  # by its id map it is known which rows are used
        if of.dynamic is not None and f"id map {of.dynamic}" not in chosen:
            chosen.discard(name)
    return chosen.__contains__, [name for name in sizes if name not in chosen]


def _bytes(rows: SavedRows) -> int:
    return sum(math.prod(shape) * rows.element_bytes(name) for name, shape in rows.tensors.items())


def _line(name: str, of: Mapping[str, Any]) -> list[str]:
    used = ["all rows move" if of["updated"] is None else DASH, DASH]
    if of["updated"] is not None:
        whole = of["updated"] + of["dead"]
        share = f" ({100 * of['updated'] / whole:.1f} %)" if whole else ""
        used = [count(of["updated"]) + share, count(of["dead"])]
    ids = [DASH, DASH]
    if (collisions := of["collisions"]) is not None:
        distinct = collisions["distinct_ids"]
        ids = ["saturated" if distinct is None else f"about {distinct:,.0f}", f"{100 * collisions['shared']:.1f} %"]
    kind = f"{of['ids']}{', dynamic' if of['dynamic'] else ''}"
    norms = [number(of["norms"][which], 3) for which in ("mean", "largest")]
    return [name, kind, count(of["rows"]), count(of["dim"]), *used, *ids, *norms]
