"""`shardrec bench step` and DeepCTR-Torch are measured in turns on the same files, and stand in one Markdown table.

Every measurement is a process of its own. `--peer` is the Python of an environment as `deepctr.py` says; `--folder`
keeps the data, and a line of JSON a measurement:

    python -m tests.trainer.benchmarks.figures.in_turns --peer peer/bin/python --folder DATA --models deepfm,dcn
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SETTINGS = {"ipnn": ["model.inner=full"], "dien": ["model.auxiliary=0"]}
HISTORY_MODELS = ("din", "dien")
PEER = Path(__file__).with_name("deepctr.py")


class Case(NamedTuple):
    """A case is a model on data of so many ids; history models have data of their own, of 200,000 items."""

    model: str
    ids: int

    @property
    def data(self) -> str:
        """Returns the name of the data's folder."""
        return "histories" if self.model in HISTORY_MODELS else f"ids-{self.ids}"

    def made_by(self) -> str:
        """Returns what `shardrec prepare` is told."""
        if self.model in HISTORY_MODELS:
            return "synthetic-histories --rows 625000 --history-negatives"
        return f"synthetic --rows 400000 --fields 26 --ids {self.ids // 26} --dense 13"


def prepared(data: Path, made_by: str) -> Path:
    """Returns the folder of data, which is made where it is not there."""
    if not data.exists():
        kind, *options = made_by.split()
        subprocess.run([sys.executable, "-m", "shardrec", "prepare", kind, str(data), *options], check=True)
    return data


def figures_of(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Returns the JSON of a command's last line; an error's last line where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False
    )
    if done.returncode:
        return {"failed": (done.stderr.strip() or str(done.returncode)).splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(case: Case, data: Path, overrides: Sequence[str], steps: int) -> list[str]:
    """Returns the command of our measurement."""
    command = [sys.executable, "-m", "shardrec", "bench", "step", "--data", str(data), "--model", case.model]
    settings = [*SETTINGS.get(case.model, []), *overrides]
    return [*command, "--steps", str(steps), *(word for s in settings for word in ("--set", s))]


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the figures of each measurement, each round's cases in turn: the peer, then ours by their settings."""
    cases = dict.fromkeys(Case(m, i) for m in given.models.split(",") for i in map(int, given.ids.split(",")))
    variants: list[list[str]] = [setting.split() for setting in given.settings.split(",")]
    prefix = given.prefix.split()
    for turn in range(given.rounds):
        for case in cases:
            data = prepared(given.folder / case.data, case.made_by())
            commands = {"ours " + " ".join(v): ours(case, data, v, given.steps) for v in variants}
            if given.peer:
                commands = {"peer": [given.peer, str(PEER), str(data), "--model", case.model]} | commands
            for form, command in commands.items():
                time.sleep(given.pause)
                found = figures_of([*prefix, *command], given.threads)
                yield {"round": turn, "case": case.model, "data": case.data, "form": form.strip(), **found}


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a Markdown table: medians of the rounds, and ratios to the peer's."""
    yield "| model | data | whose | step ms | bound ms | step / bound | step/s | end to end | to the peer | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if "failed" not in line:
            groups.setdefault((line["case"], line["data"], line["form"]), []).append(line)

    def median(key: tuple[str, str, str], name: str) -> float | None:
        values = [line[name] for line in groups.get(key, []) if name in line]
        return statistics.median(values) if values else None

    for model, data, form in groups:
        key, rate = (model, data, form), "end_to_end_samples_per_second"
        theirs, end_to_end = median((model, data, "peer"), rate), median(key, rate)
        bound, to_bound = median(key, "bound_milliseconds"), median(key, "step_to_bound")
        cells = [
            f"{median(key, 'step_milliseconds'):.1f}",
            f"{bound:.1f}" if bound else "",
            f"{to_bound:.2f}" if to_bound else "",
            f"{(median(key, 'step_samples_per_second') or 0) / 1e3:.1f}k",
            f"{(end_to_end or 0) / 1e3:.1f}k",
            f"{end_to_end / theirs:.1f}" if end_to_end and theirs and form != "peer" else "",
            f"{(median(key, 'peak_memory_bytes') or 0) / 2**20:,.0f}",
        ]
        shown = " ".join(word.rpartition("=")[2] for word in form.split())
        yield f"| {model} | {data} | {shown} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measures, writes a line of JSON a measurement beside the data, and prints the table of all lines there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for data and figures.jsonl")
    parser.add_argument("--peer", help="Python of the peer's environment; default: ours alone")
    parser.add_argument("--models", default="deepfm,dcn,wide_deep,ipnn,afm,fm,lr,din,dien")
    parser.add_argument("--ids", default="1000000,10000000", help="of all 26 fields together")
    parser.add_argument("--settings", default="trainer.precision=fp32,trainer.precision=bf16", help="ours, by comma")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each measurement")
    parser.add_argument("--prefix", default="", help="before each command, such as `chrt -f 10`")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    record = given.folder / "figures.jsonl"
    for line in measure(given):
        with record.open("a") as file:
            print(json.dumps(line), file=file)
        print(json.dumps(line), flush=True)
    print(*table([json.loads(line) for line in record.read_text().splitlines()]), sep="\n")


if __name__ == "__main__":
    main()
