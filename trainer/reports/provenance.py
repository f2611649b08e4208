"""Where a run comes from: its commands, versions, machine, seed, the rows that it read, and what it started from."""

import time
from collections.abc import Mapping
from typing import Any

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.trainer.config.sections import SPLITS
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.numbers import count, is_number
from shardrec.trainer.reports.page import cell, folded, table
from shardrec.trainer.reports.run_facts import RunFacts

MOST_COMMANDS = 20


def provenance(facts: RunFacts) -> Markup:
    """Returns two tables: facts of the run, and its rows; and the commands, newest last."""
    commands = [line for line in facts.launches if line.get("kind") == "launch"]
    last = commands[-1] if commands else {}
    rows = [[name, cell(value, "l wrap")] for name, value in _facts(facts, last) if value]
    parts = [table(["", ""], rows, left=(0, 1)), _data(facts)]
    shown = commands[-MOST_COMMANDS:]
    lines = [[_when(line.get("time")), cell(element("code", str(line.get("command", ""))), "l wrap")] for line in shown]
    title = f"The last {len(shown)} of {len(commands)} commands that trained here"
    if len(commands) > 1:
        parts.append(folded(title, table(["when", "command"], lines, left=(0, 1))))
    return joined(parts)


def _facts(facts: RunFacts, last: Mapping[str, Any]) -> list[tuple[str, str | Markup]]:
    config, start = facts.config, list(facts.of_kind("start"))
    device = str(start[-1].get("device", "")) if start else ""
    workers = start[-1].get("world_size") if start else None
    memory = last.get("memory_bytes")
    machine = [str(last.get("system", "")), f"{count(last['cores'])} cores" if is_number(last.get("cores")) else ""]
    machine += [f"{readable(int(memory))} of memory"] if is_number(memory) else []
    sources = [", ".join(filter(None, (source.run, source.stage))) for source in config.init_from]
    command = str(last.get("command", ""))
    return [
        ("command", element("code", command) if command else ""),
        ("run folder", str(facts.folder.path)),
        ("started from", "; ".join(sources)),
        ("seed", str(config.trainer.seed)),
        ("workers", f"{count(workers)} on {device or config.launch.device}" if workers else ""),
        ("machine", ", ".join(filter(None, machine))),
        ("versions", _versions(last.get("versions"))),
    ]


def _versions(found: Any) -> str:
    return ", ".join(f"{name} {of}" for name, of in found.items()) if isinstance(found, Mapping) else ""


def _data(facts: RunFacts) -> Markup:
    """Returns the splits' places with their fingerprints, by which the same rows are known again."""
    prints = (facts.summary or {}).get("data") or {}
    rows = []
    for split in SPLITS:
        given = getattr(facts.config.data, split)
        place = given or (f"{facts.config.data.path}/{split}" if facts.config.data.path and split in prints else None)
        if place or split in prints:
            shown = ", ".join(place) if isinstance(place, tuple) else str(place or "")
            rows.append([split, cell(shown, "l wrap"), cell(element("code", str(prints.get(split, ""))), "l wrap")])
    return table(["rows", "place", "fingerprint"], rows, left=(0, 1, 2))


def _when(at: object) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if is_number(at) else ""
