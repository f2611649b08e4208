"""A long run is watched from without: its memory, files, threads, logs and speed have to stay as they are.

50,000 steps with 500 evaluations and 500 checkpoints of a DeepFM with a dynamic table, fp16 rows and two readers:

    python -m tests.trainer.benchmarks.figures.soak --folder DATA --picture soak.svg
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from shardrec.trainer.reports.chart import Axis, Chart, Line
from tests.trainer.benchmarks.figures.panels import draw
from tests.trainer.small_run import run_file, write_data

EVALUATIONS = 500
SIZES = {
    "memory": "MiB of all processes",
    "files": "open files",
    "threads": "threads",
    "logs": "KiB of the log folder",
    "steps_per_second": "steps/s",
}
"""What is watched, and in which unit."""


def begin(folder: Path, steps: int, workers: int) -> "subprocess.Popen[bytes]":
    """Starts the run."""
    data = folder / "data"
    if not data.exists():
        write_data(data, rows=24_000)
    every = steps // EVALUATIONS
    sections = {
        "data": {"global_batch_size": 256, "readers": 2, "memory": "256MiB"},
        "tables": {"item": {"dtype": "fp16"}, "user": {"dynamic": {"rows": 120, "after": 2}}},
        "trainer": {
            "epochs": 1_000_000, "max_steps": steps, "evaluation": {"every_steps": every},
            "checkpoint": {"every_steps": every}, "log_every_steps": every, "tensorboard": True,
        },
        "launch": {"workers": workers},
    }  # fmt: skip
    path = run_file(folder / f"soak-{workers}.yaml", data, **sections)
    log = (folder / f"soak-{workers}.out").open("wb")
    return subprocess.Popen([sys.executable, "-m", "shardrec", "train", str(path), "--quiet"], stdout=log, stderr=log)


def watch(process: "subprocess.Popen[bytes]", run: Path, every: float) -> Iterator[dict[str, Any]]:
    """Yields what the run takes every so many seconds, from its first step on."""
    root, before = psutil.Process(process.pid), (0, time.monotonic())
    while process.poll() is None:
        time.sleep(every)
        step, now = _step(run), time.monotonic()
        if step > before[0]:
            yield {"step": step, "steps_per_second": (step - before[0]) / (now - before[1]), **_taken(root, run)}
            before = step, now


def _step(run: Path) -> int:
    try:
        (progress,) = run.glob("logs/*/progress.json")
        return int(json.loads(progress.read_text())["trained"])
    except (OSError, ValueError):
        return 0


def _taken(root: psutil.Process, run: Path) -> dict[str, float]:
    memory = files = threads = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            with process.oneshot():
                memory += process.memory_full_info().uss
                files, threads = files + process.num_fds(), threads + process.num_threads()
        except psutil.Error:
            continue
    logs = sum(path.stat().st_size for path in run.glob("logs/**/*") if path.is_file())
    return {"memory": memory / 2**20, "files": files, "threads": threads, "logs": logs / 2**10}


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields a Markdown table: medians of the second, and of the last tenth of the run, and the most."""
    tenth = max(1, len(lines) // 10)
    second, last = lines[tenth : 2 * tenth], lines[-tenth:]
    yield "| | second tenth of the run | last tenth | most |"
    yield "|---|---|---|---|"
    for name, unit in SIZES.items():
        of = [median(line[name] for line in part) for part in (second, last)]
        yield f"| {unit} | {of[0]:,.0f} | {of[1]:,.0f} | {max(line[name] for line in lines):,.0f} |"


def _chart(name: str, unit: str, lines: Sequence[dict[str, Any]]) -> Chart:
    points = [(line["step"] / 1e3, line[name]) for line in lines]
    return Chart(unit, Axis("thousand steps"), Axis("", low=0), [Line(name, points, 0)])


def main() -> None:
    """Makes the run, and prints and draws what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for data, run and soak-WORKERS.jsonl")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    run = given.folder / f"soak-{given.workers}"
    process = begin(given.folder, given.steps, given.workers)
    lines = []
    with (given.folder / f"soak-{given.workers}.jsonl").open("w") as record:
        for line in watch(process, run, given.every):
            print(json.dumps(line), file=record, flush=True)
            lines.append(line)
    print(*table(lines), sep="\n")
    if given.picture:
        draw([(unit, _chart(name, unit, lines)) for name, unit in SIZES.items()], [], given.picture)
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
