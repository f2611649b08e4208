"""A page is a check's record as Markdown: what passed, then each section's figures."""

from collections.abc import Mapping, Sequence
from typing import Any


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record, as `Record.as_json` has it."""
    settings = ", ".join(f"{name} {value}" for name, value in record.items() if name != "sections")
    lines = ["# Check of a GPU", "", f"{settings}.", ""]
    summary = [
        {"section": s["title"], "": s["state"], "seconds": s["seconds"], "why": s["error"] or ""}
        for s in record["sections"]
    ]
    lines += [*_table(summary), ""]
    for section in record["sections"]:
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Mapping[str, Any]) -> list[str]:
    figures, lines = section["figures"], [f"## {section['title']}", ""]
    if not (figures or section["error"]):
        return [*lines, f"{section['state'].capitalize()}.", ""]
    if section["error"]:
        lines += [f"{section['state'].capitalize()}: {section['error']}", ""]
        if section["traceback"]:
            lines += ["```", *section["traceback"], "```", ""]
    plain = {name: value for name, value in figures.items() if not _is_rows(value)}
    if plain:
        lines += [*_table([{"figure": _spoken(name), "": value} for name, value in plain.items()]), ""]
    for name, rows in figures.items():
        if _is_rows(rows) and rows:
            lines += [f"### {_spoken(name)}", "", *_rows(rows), ""]
    return lines


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a table of rows; a single one goes down the page."""
    if len(rows) == 1:
        return _table([{"figure": _spoken(name), "": value} for name, value in rows[0].items()])
    return _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(map(_spoken, names))} |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in rows]


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
