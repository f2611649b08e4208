"""The plan on a page: what each rank has of tables, by placement, and a line a table."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.trainer.reports.chart import LEFT, WIDTH
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.numbers import count, is_number
from shardrec.trainer.reports.page import folded, table
from shardrec.trainer.reports.run_facts import RunFacts

FEW_RANKS = 16
"""So many ranks have a bar each; of more there are the fullest, the median and the emptiest."""
FEW_TABLES = 20
_ROW, _BAR = 24.0, 13.0


def plan_section(facts: RunFacts) -> Markup:
    """Returns the plan; as it was printed, where the run has it in words alone."""
    plan = facts.plan
    tables = [t for t in _list(plan.get("tables")) if isinstance(t, Mapping)]
    if not tables:
        text = facts.plan_text.strip()
        return element("pre", text, tabindex=0) if text else Markup()
    largest = sorted(tables, key=lambda t: -_size(t))
    columns = ["table", "rows", "dim", "dtype", "optimizer", "placement", "shards", "ranks", "bytes"]
    first = table(columns, map(_line, largest[:FEW_TABLES]), left=(0, 3, 4, 5))
    rest = table(columns, map(_line, largest[FEW_TABLES:]), left=(0, 3, 4, 5))
    notes = [element("p", str(note), class_="note") for note in _list(plan.get("notes")) if isinstance(note, str)]
    more = folded(f"{len(largest) - FEW_TABLES} smaller tables", rest)
    return joined((_memory(plan), first, more, notes))


def _list(value: object) -> list[Any]:
    """Returns the value where it is a list, and one of nothing where a file has something else."""
    return value if isinstance(value, list) else []


def _size(of: Mapping[str, Any]) -> float:
    return float(sum(of[key] for key in ("bytes", "host_bytes") if is_number(of.get(key))))


def _line(of: Mapping[str, Any]) -> list[str]:
    words = (str(of.get(key, "")) for key in ("dtype", "optimizer", "placement"))
    name = str(of.get("name")) + (" (dynamic)" if of.get("dynamic") else "")
    counts = (count(of.get("rows")), count(of.get("dim")))
    return [name, *counts, *words, count(of.get("shards")), count(of.get("ranks")), readable(int(_size(of)))]


def _memory(plan: Mapping[str, Any]) -> Markup:
    found = plan.get("bytes_per_rank")
    by_placement = {
        str(name): [int(size) for size in sizes if is_number(size)]
        for name, sizes in (found if isinstance(found, Mapping) else {}).items()
        if isinstance(sizes, list)
    }
    ranks = max(map(len, by_placement.values()), default=0)
    if not ranks:
        return Markup()
    by_placement = {name: sizes for name, sizes in by_placement.items() if len(sizes) == ranks}
    totals = [sum(sizes[r] for sizes in by_placement.values()) for r in range(ranks)]
    limit = plan.get("memory_per_rank")
    available = f", of {readable(int(limit))} that a rank has for tables" if is_number(limit) else ""
    words = f"Fullest rank {readable(max(totals))}, median {readable(int(median(totals)))}{available}."
    return element(
        "figure",
        element("figcaption", "Tables' memory by rank", element("span", words, class_="note"), _legend(by_placement)),
        _bars(_shown_ranks(totals), by_placement, totals),
    )


def _shown_ranks(totals: Sequence[int]) -> list[tuple[str, int]]:
    if len(totals) <= FEW_RANKS:
        return [(f"rank {r}", r) for r in range(len(totals))]
    order = sorted(range(len(totals)), key=lambda r: -totals[r])
    return [("fullest", order[0]), ("median", order[len(order) // 2]), ("emptiest", order[-1])]


def _bars(shown: Sequence[tuple[str, int]], by_placement: Mapping[str, Sequence[int]], totals: Sequence[int]) -> Markup:
    most, drawn, wide = max(totals) or 1, [], WIDTH - LEFT - 96
    for row, (label, rank) in enumerate(shown):
        x, y = LEFT + 14, row * _ROW + 6
        drawn.append(element("text", label, x=x - 8, y=y + 11, text_anchor="end"))
        for series, (name, sizes) in enumerate(by_placement.items()):
            width = wide * sizes[rank] / most
            tip = element("title", f"rank {rank}, {name}: {readable(sizes[rank])}")
            drawn.append(element("rect", tip, x=x, y=y, width=width, height=_BAR, class_=f"f{series % 8}"))
            x += width
        drawn.append(element("text", readable(totals[rank]), x=x + 6, y=y + 11))
    label = "Bytes of tables on each rank, by placement"
    size = f"0 0 {WIDTH:g} {len(shown) * _ROW + 6:g}"
    return element("svg", element("title", label), drawn, viewBox=size, role="img", aria_label=label)


def _legend(names: Mapping[str, Any]) -> Markup:
    items = [
        element("li", element("span", "", class_=f"key box k{i % 8}"), element("span", name.replace("_", " ")))
        for i, name in enumerate(names)
    ]
    return element("ul", items, class_="legend")
