"""A campaign makes trials of all launchers, and goes on where its file ends; its table says what came of them."""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.bench import Bench
from tests.faults.trial import FAULTS, Trial, as_line

WANTED = {"in_process": 300, "torchrun": 200, "store": 100, "ray-2": 200, "ray-3": 100, "elastic": 100}
"""Faults that befall runs of each launcher."""


def main() -> None:
    """Makes the trials that the file has not, and prints the table of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a line of JSON for each trial")
    parser.add_argument("--launcher", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--faults", type=int, help="of each launcher, with those that the file has")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no more trials begin")
    parser.add_argument("--table", action="store_true", help="print the table of what the file has, and end")
    options = parser.parse_args()
    if not options.table:
        wanted = {name: options.faults or WANTED[name] for name in options.launcher or FAULTS}
        _make(options.out, wanted, options.minutes)
    print(table(_read(options.out)))


def _make(out: Path, wanted: dict[str, int], minutes: float) -> None:
    """Makes trials of all launchers in turn, until each has had its faults or time is over."""
    until = time.monotonic() + 60 * minutes
    with (
        tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder,
        closing(Bench(Path(folder))) as bench,
    ):
        for trial in _missing(out, wanted):
            if time.monotonic() > until:
                return
            outcome = bench.tried(trial)
            with out.open("a") as file:
                file.write(as_line(trial, outcome) + "\n")
            if not outcome.sound:
                print(as_line(trial, outcome), flush=True)


def _missing(out: Path, wanted: dict[str, int]) -> Iterator[Trial]:
    """Yields trials that the file has not, of all launchers in turn, while it has fewer faults than are wanted."""
    for seed in count():
        made = _read(out)
        missing = {name for name, wants in wanted.items() if _befallen(made, name) < wants}
        if not missing:
            return
        there = {(line["launcher"], line["seed"]) for line in made}
        for launcher in wanted:
            if launcher in missing and (launcher, seed) not in there:
                yield Trial.drawn(launcher, seed)


def _befallen(made: list[dict[str, Any]], launcher: str) -> int:
    return sum(struck["befell"] for line in made if line["launcher"] == launcher for struck in line["struck"])


def _read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: by launcher and fault, how often it befell a run, and what came of these runs."""
    rows = [
        "| launcher | fault | befell runs | which ended, and went on when started again | sound | rows lost | "
        "rows repeated | seconds to recover: median, most | files, processes left |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    befallen: dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for line in lines:
        for struck in line["struck"]:
            if struck["befell"]:
                befallen.setdefault((line["launcher"], struck["fault"]), []).append((line, struck))
    for launcher, fault in sorted(befallen, key=lambda kind: ([*FAULTS].index(kind[0]), kind[1])):
        both = befallen[launcher, fault]
        recovered = [struck["recovered"] for _, struck in both if struck["recovered"]] or [0.0]
        sums = {key: sum(line[key] for line, _ in both) for key in ("sound", "rows_lost", "rows_repeated")}
        ended, left = sum(bool(struck["codes"]) for _, struck in both), sum(len(line["left"]) for line, _ in both)
        rows.append(
            f"| {launcher} | {fault} | {len(both)} | {ended} | {sums['sound']} | {sums['rows_lost']} | "
            f"{sums['rows_repeated']} | {median(recovered):.1f}, {max(recovered):.1f} | {left} |"
        )
    hours, faults = sum(line["seconds"] for line in lines) / 3600, sum(map(len, befallen.values()))
    return "\n".join([*rows, "", f"{faults:,} faults in {len(lines):,} runs, {hours:.2f} hours."])
