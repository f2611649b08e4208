"""`shardrec tables` prints a line a table, a line an id map and a histogram of each table's row norms."""

from typing import Any

from shardrec.data_pipeline.errors import printable
from shardrec.trainer.run_folder.terminal import plain_table, print_whole

BAR = 40
"""The longest bar has so many characters."""

_TABLE_COLUMNS = (
    "table", "ids", "rows", "dim", "used", "%", "dead", "distinct ids", "shared %", "mean norm", "largest",
)  # fmt: skip
_ID_MAP_COLUMNS = (
    "id map", "rows", "occupied", "%", "admissions", "evictions", "churn", "refused", "candidates", "forgotten",
    "occurrences", "oldest use",
)  # fmt: skip


def print_tables(report: dict[str, Any]) -> None:
    """Prints what `table_report` returned."""
    print_whole(f"{report['checkpoint']}:")
    lines = [_table_line(name, table) for name, table in report["tables"].items()]
    print_whole(plain_table(_TABLE_COLUMNS, lines, left=("table", "ids")))
    if report["id_maps"]:
        lines = [_id_map_line(name, id_map) for name, id_map in report["id_maps"].items()]
        print_whole(plain_table(_ID_MAP_COLUMNS, lines, left=("id map",)))
    for name, table in report["tables"].items():
        print_whole(*_histogram(name, table))


def _table_line(name: str, t: dict[str, Any]) -> list[str]:
    kind = f"{t['ids']}{', dynamic' if t['dynamic'] else ''}"
    used, ids = ["-"] * 3, ["-"] * 2
    if t["updated"] is not None:
        used = [f"{t['updated']:,}", _percent(t["updated"], t["updated"] + t["dead"]), f"{t['dead']:,}"]
    if (c := t["collisions"]) is not None:
        distinct = "saturated" if c["distinct_ids"] is None else f"{c['distinct_ids']:,.0f} ± {c['deviation']:,.0f}"
        ids = [distinct, f"{100 * c['shared']:.1f}"]
    norms = [f"{n:.4g}" if (n := t["norms"][what]) is not None else "-" for what in ("mean", "largest")]
    return [printable(name), kind, f"{t['rows']:,}", str(t["dim"]), *used, *ids, *norms]


def _id_map_line(name: str, m: dict[str, Any]) -> list[str]:
    counts = {what: f"{m[what]:,}" for what in _ID_MAP_COLUMNS if what in m}
    oldest = "-" if m["oldest_use"] is None else f"{m['oldest_use']:,} steps"
    cells = counts | {
        "id map": printable(name),
        "%": _percent(m["occupied"], m["rows"]),
        "churn": f"{m['churn']:.2f}",
        "oldest use": oldest,
    }
    return [cells[column] for column in _ID_MAP_COLUMNS]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _histogram(name: str, table: dict[str, Any]) -> list[str]:
    """Returns a title and a line for each bin."""
    norms = table["norms"]
    why = table["judged_by"]
    which = f"all rows ({why})" if table["updated"] is None else f"used rows, by {why}"
    lines = [f"{printable(name)}: norms of {which}"]
    special = [("0", norms["zero"]), ("not finite", norms["not_finite"])]
    bins = [(f"{low:.3g} to {high:.3g}", count) for low, high, count in norms["bins"]]
    shown = [(label, count) for label, count in special if count] + bins
    most = max((count for _, count in shown), default=0)
    wide = max((len(label) for label, _ in shown), default=0)
    for label, count in shown:
        bar = "█" * (-(-count * BAR // most) if most else 0)
        lines.append(f"  {label:>{wide}}  {bar:<{BAR}} {count:,}")
    return lines
