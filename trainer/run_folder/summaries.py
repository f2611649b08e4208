"""A summary is printed when a command is finished, and says what it came to."""

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from shardrec.data_pipeline.declared.documents import read_document
from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import plain_table, print_table, results

SHOWN = ("auc", "log_loss", "normalized_entropy", "gauc", "rmse", "mae", "td_error", "mean_q", "mean_target")
UNDEFINED = "undefined"
"""What tables have in place of a number that the rows do not define."""


def print_summary(config: RunConfig, summary: dict[str, Any]) -> None:
    """Prints the summary of a training run: its metrics, its speed, where it is."""
    console = results()
    _print_metrics(console, summary, best_attainable(config))
    facts = [
        f"{summary['steps']} steps",
        f"{summary['rows']:,} rows",
        f"{summary['samples_per_second']:,.0f} samples/s on {summary['world_size']} worker(s)",
        f"peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB",
        *(
            [f"of a GPU {summary['peak_device_memory_bytes'] / 1e9:.2f} GB"]
            if "peak_device_memory_bytes" in summary
            else []
        ),
        f"{summary['wall_seconds']:.0f} s in all",
    ]
    if "seconds_to_first_step" in summary:
        facts.append(f"first step after {summary['seconds_to_first_step']:.1f} s")
    if summary["stopped_early"]:
        facts.insert(1, f"stopped early, best at {summary['best_step']}")
    console.print(", ".join(facts), soft_wrap=True)
    if zeros := summary.get("zero_weights"):
        shares = (f"{table} {100 * share:.1f} %" for table, share in zeros.items())
        console.print("zero weights: " + ", ".join(shares), soft_wrap=True)
    console.print(f"run folder: {config.run}", soft_wrap=True)


def print_metrics(folder: RunFolder, result: dict[str, Any]) -> None:
    """Prints the result of `shardrec evaluate`."""
    console = results()
    _print_metrics(console, result, {})
    if table_bytes := result.get("table_bytes"):
        sizes = ", ".join(f"{readable(size)} as {dtype}" for dtype, size in table_bytes.items())
        console.print(f"tables: {sizes}", soft_wrap=True)
    console.print(f"checkpoint step-{result['step']} of {folder.address}", soft_wrap=True)


def best_attainable(config: RunConfig) -> dict[str, dict[str, float]]:
    """Returns split -> metrics that no model can beat, where the data's maker knows them (`best.yaml` beside it)."""
    path = Path(config.data.path or "") / "best.yaml"
    try:
        best = read_document(path, "best scores") if config.data.path and path.exists() else {}
    except UserError:
        return {}  # it is a help to compare with: whatever it holds must not cost a finished run its summary
    splits = best.items() if isinstance(best, dict) else ()
    scores = {s: _numbers(of_split) for s, of_split in splits if isinstance(of_split, dict)}
    return {split: of_split for split, of_split in scores.items() if of_split}


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if isinstance(score, int | float)}


def shown(metrics: Iterable[str]) -> list[str]:
    """Returns those of some metrics that tables for people have, in their order."""
    names = list(metrics)
    return [name for name in SHOWN if name in names] + [name for name in names if "@" in name or name == "mrr"]


def left_out(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for what a result has no number for: metrics that rows do not define, and whole splits."""
    for split, reasons in result.get("undefined", {}).items():
        for reason in dict.fromkeys(reasons.values()):
            names = ", ".join(name for name, its in reasons.items() if its == reason)
            yield f"{split}: undefined: {names} ({reason})"
    for split, reason in result.get("not_scored", {}).items():
        yield f"{split}: not scored: {reason}"


def _print_metrics(console: Console, result: Mapping[str, Any], best: dict[str, dict[str, float]]) -> None:
    metrics: dict[str, dict[str, float]] = result["metrics"]
    names = shown(dict.fromkeys(name for of_split in metrics.values() for name in of_split))
    lines: list[list[str | Text]] = []
    for split, of_split in metrics.items():
        lines.append([split, *(_number(of_split, name) for name in names)])
        if split in best:
            attainable = ["  best attainable", *(_number(best[split], name) for name in names)]
            lines.append([Text(cell, style="dim") for cell in attainable])
    if names:
        print_table(console, plain_table(["split", *names], lines, left=("split",)))
    for line in left_out(result):
        console.print(line, soft_wrap=True, markup=False)


def _number(values: Mapping[str, float | None], name: str) -> str:
    value = values.get(name)
    if value is None:
        return UNDEFINED if name in values else "-"
    return f"{value:.4f}" if isfinite(value) else UNDEFINED
