"""A campaign makes trials of all launchers, and goes on where its file ends; its table says what came of them."""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.trial import FAULTS, Bench, Trial, as_line

WANTED = {"in_process": 300, "torchrun": 200, "ray-2": 200, "ray-3": 100, "elastic": 100}
"""Trials of each launcher."""


def main() -> None:
    """Makes the trials that the file has not, and prints the table of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a line of JSON for each trial")
    parser.add_argument("--launcher", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--trials", type=int, help="of each launcher, with those that the file has")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no more begin")
    parser.add_argument("--table", action="store_true", help="print the table of what the file has, and end")
    options = parser.parse_args()
    if not options.table:
        wanted = {name: options.trials or WANTED[name] for name in options.launcher or FAULTS}
        _make(options.out, wanted, options.minutes)
    print(table(_read(options.out)))


def _make(out: Path, wanted: dict[str, int], minutes: float) -> None:
    until = time.monotonic() + 60 * minutes
    with (
        tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder,
        closing(Bench(Path(folder))) as bench,
    ):
        for trial in _missing(wanted, _read(out)):
            if time.monotonic() > until:
                return
            outcome = bench.tried(trial)
            with out.open("a") as file:
                file.write(as_line(trial, outcome) + "\n")
            if not outcome.sound:
                print(as_line(trial, outcome), flush=True)


def _missing(wanted: dict[str, int], made: Iterable[dict[str, Any]]) -> Iterator[Trial]:
    """Yields the trials that are still to be made, of all launchers in turn."""
    seen = {(line["launcher"], line["seed"]) for line in made}
    for seed in range(max(wanted.values())):
        for launcher, count in wanted.items():
            if seed < count and (launcher, seed) not in seen:
                yield Trial.drawn(launcher, seed)


def _read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: by launcher and fault, how many trials, and what came of them."""
    rows = [
        "| launcher | fault | trials | befell | ended and resumed | equal, nothing left | rows lost | rows repeated | "
        "seconds to recover: median, most | files and processes left |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    kinds = Counter((line["launcher"], line["fault"]) for line in lines)
    for (launcher, fault), count in kinds.items():
        of_kind = [line for line in lines if (line["launcher"], line["fault"]) == (launcher, fault)]
        recovered = [line["recovered"] for line in of_kind if line["befell"] and line["recovered"]] or [0.0]
        sums = {key: sum(line[key] for line in of_kind) for key in ("befell", "sound", "rows_lost", "rows_repeated")}
        resumed, left = sum(bool(line["codes"]) for line in of_kind), sum(len(line["left"]) for line in of_kind)
        rows.append(
            f"| {launcher} | {fault} | {count} | {sums['befell']} | {resumed} | {sums['sound']} | "
            f"{sums['rows_lost']} | {sums['rows_repeated']} | {median(recovered):.1f}, {max(recovered):.1f} | {left} |"
        )
    hours = sum(line["seconds"] for line in lines) / 3600
    return "\n".join([*rows, "", f"{len(lines)} trials, {hours:.2f} hours."])
