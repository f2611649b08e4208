"""`shardrec bench step` is measured as one size after another grows: a Markdown table, and a picture of samples/s.

All else stays as it is in the benchmark's own log: DeepFM, 26 fields, 1 M ids, dim 16, batches of 4,096, two threads.
`--folder` keeps the data, and a line of JSON a measurement; what is there is not measured again:

    python -m tests.trainer.benchmarks.figures.growth --folder DATA --picture growth.svg
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shardrec.trainer.reports.chart import Axis, Chart, Line
from tests.trainer.benchmarks.figures import panels
from tests.trainer.benchmarks.figures.in_turns import figures_of, prepared

LOG = {"rows": 400_000, "fields": 26, "ids": 1_000_000, "dense": 13}
THREAD = "launch.threads=1"


class Point(NamedTuple):
    """A point is one measurement: a value of the size that grows, the log, the model and the run file's settings."""

    size: str
    value: int
    model: str = "deepfm"
    settings: tuple[str, ...] = ()
    steps: int = 20

    def made_by(self) -> str:
        """Returns what `shardrec prepare` is told."""
        if self.model == "din":
            return f"synthetic-histories --rows 200000 --mean-length {self.value} --max-length {3 * self.value}"
        log = LOG | ({self.size: self.value} if self.size in LOG else {})
        if self.size == "fields":
            log["ids"] = LOG["ids"] // LOG["fields"] * log["fields"]
        each = log["ids"] // log["fields"]
        return f"synthetic --rows {log['rows']} --fields {log['fields']} --ids {each} --dense {log['dense']}"


def points() -> Iterator[Point]:
    """Yields all measurements, size by size."""
    yield from (Point("ids", n) for n in (100_000, 1_000_000, 10_000_000, 100_000_000))
    yield from (Point("batch", n, settings=(f"data.global_batch_size={n}",)) for n in (512, 2048, 16384))
    yield from (Point("fields", n) for n in (5, 100))
    yield from (Point("dim", n, settings=(f"model.embedding_dim={n}",)) for n in (4, 64))
    yield from (Point("history", n, "din") for n in (5, 20, 40))
    yield from (Point("workers", n, settings=(f"launch.workers={n}", THREAD)) for n in (1, 2))
    yield from (Point("readers", n, "lr", (f"data.readers={n}", THREAD), 70) for n in (0, 1, 2))
    yield from (Point("rows", n, "lr", (), n * 8 // 10 // 4096) for n in (400_000, 800_000))


def measure(folder: Path, known: Sequence[dict[str, Any]], given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the figures of each point that is not known."""
    done = {(line["size"], line["value"]) for line in known}
    for point in points():
        if (point.size, point.value) in done:
            continue
        made_by = point.made_by()
        data = prepared(folder / made_by.replace(" --", "-").replace(" ", "-"), made_by)
        time.sleep(given.pause)
        command = [sys.executable, "-m", "shardrec", "bench", "step", "--data", str(data), "--model", point.model]
        settings = [word for setting in point.settings for word in ("--set", setting)]
        command = [*given.prefix.split(), *command, "--no-bound", "--steps", str(point.steps), *settings]
        yield {"size": point.size, "value": point.value, **figures_of(command, given.threads)}


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    yield "| what grows | | model | step/s | end to end | peak MiB |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        if "failed" not in line:
            rates = [f"{line[f'{n}_samples_per_second'] / 1e3:.1f}k" for n in ("step", "end_to_end")]
            peak = f"{line['peak_memory_bytes'] / 2**20:,.0f}"
            yield f"| {line['size']} | {line['value']:,} | {line['model']} | " + " | ".join([*rates, peak]) + " |"


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws a panel for each size: thousand samples/s of the step and end to end; sizes are on logarithmic axes."""
    charts = []
    for size in dict.fromkeys(line["size"] for line in lines):
        of_size = [line for line in lines if line["size"] == size and "failed" not in line]
        charts.append((f"{size} ({of_size[0]['model']})", _chart(size, of_size)))
    panels.draw(charts, ("step in memory", "end to end"), path)


def _chart(size: str, lines: Sequence[dict[str, Any]]) -> Chart:
    first, base = (0.0, 10) if size == "ids" else (math.log2(lines[0]["value"] or 1), 2)
    counted = size in ("workers", "readers")
    places = [line["value"] if counted else math.log(line["value"], base) - first for line in lines]
    drawn = [
        Line(name, [(x, line[f"{name}_samples_per_second"] / 1e3) for x, line in zip(places, lines, strict=True)], i)
        for i, name in enumerate(("step", "end_to_end"))
    ]
    label_of = None if counted else lambda k: _short(base ** (k + first))
    return Chart(size, Axis("", whole=True, label_of=label_of), Axis("thousand samples/s", low=0), drawn)


def _short(value: float) -> str:
    """Returns `1.6M` and the like."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def main() -> None:
    """Measures what is not there yet, and prints and draws all that is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for data and growth.jsonl")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each measurement")
    parser.add_argument("--prefix", default="", help="before each command, such as `chrt -f 10`")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    record = given.folder / "growth.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    for line in measure(given.folder, lines, given):
        print(json.dumps(line), flush=True)
        with record.open("a") as file:
            print(json.dumps(line), file=file)
        lines.append(line)
    base = next(line for line in lines if (line["size"], line["value"]) == ("ids", LOG["ids"]))
    of_base = {"batch": 4096, "fields": LOG["fields"], "dim": 16}
    lines += [base | {"size": size, "value": value} for size, value in of_base.items()]
    order = list(dict.fromkeys(point.size for point in points()))
    lines.sort(key=lambda line: (order.index(line["size"]), line["value"]))
    print(*table(lines), sep="\n")
    if given.picture:
        draw(lines, given.picture)


if __name__ == "__main__":
    main()
