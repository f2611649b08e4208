"""A scoreboard says what the runs of a comparison came to, one row a model: as a table, CSV, Markdown and a plot.

Metrics are of the test split, or of the validation split where the data have no other: mean and sample standard
deviation over the seeds that finished. Speed is the median over them. A metric that no run's rows define is
`undefined`, NaN in the CSV files, with the reason below the table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.trainer.run_folder.atomic import check_own_picture, write_atomically, write_csv, write_picture
from shardrec.trainer.run_folder.summaries import UNDEFINED, left_out, shown
from shardrec.trainer.run_folder.terminal import plain_table, print_table

PANELS = 3  # metrics that the plot has
_FILES = {
    "compare.csv": rb"model,runs,failed.*",
    "runs.csv": rb"model,seed.*",
    "compare.md": rb"\| model \|[^\n]*\n\| --- \|.*",
}  # and what each of them is like
_PICTURE = "compare.png"
FACTS = ("samples/s", "table parameters", "tower parameters", "epochs to best", "seconds")


@dataclass(frozen=True)
class Outcome:
    """An outcome of one run is the summary that it left, or the line that it failed with."""

    model: str
    seed: int
    summary: dict[str, Any] | None = None
    failure: str | None = None

    def metrics(self, split: str) -> dict[str, float | None]:
        """Returns the metrics of a split; None for what its rows do not define."""
        return self.summary["metrics"].get(split, {}) if self.summary else {}


@dataclass
class Scoreboard:
    """A scoreboard holds all runs of a comparison so far.

    models: in the order of the rows; seeds: how many runs each model is to have; leading: the metric that comes first
    """

    models: Sequence[str]
    seeds: int
    leading: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Takes up what a run came to."""
        self.outcomes.append(outcome)

    @property
    def failures(self) -> list[Outcome]:
        """Returns the runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]

    @property
    def split(self) -> str:
        """Says which split's metrics are compared: the test split's, else the validation split's."""
        return "test" if any(outcome.metrics("test") for outcome in self.outcomes) else "validation"

    def runs(self, model: str) -> list[Outcome]:
        """Returns the finished runs of a model, by seed."""
        return sorted((o for o in self.outcomes if o.model == model and o.summary), key=lambda o: o.seed)

    def values(self, model: str, metric: str) -> list[float]:
        """Returns a metric of a model, one value a seed that has it defined."""
        of_runs = (outcome.metrics(self.split).get(metric) for outcome in self.runs(model))
        return [value for value in of_runs if value is not None]

    @property
    def metrics(self) -> list[str]:
        """Returns the names of the metrics of any run, in the order in which tasks report them."""
        return _names(outcome.metrics(self.split) for outcome in self.outcomes)

    @property
    def shown(self) -> list[str]:
        """Returns the names of the metrics that tables for people have, the leading one first."""
        return sorted(shown(self.metrics), key=lambda name: name != self.leading)

    def row(self, model: str) -> dict[str, Any]:
        """Returns all that is known of a model, by column of compare.csv; what is not known is left out."""
        summaries = [outcome.summary for outcome in self.runs(model) if outcome.summary]
        failed = sum(outcome.model == model for outcome in self.failures)
        row: dict[str, Any] = {"model": model, "runs": len(summaries), "failed": failed}
        for metric in self.metrics:
            if values := self.values(model, metric):
                row[metric] = fmean(values)
                if len(values) > 1:
                    row[f"{metric}_std"] = stdev(values)
            elif any(metric in outcome.metrics(self.split) for outcome in self.runs(model)):
                row[metric] = nan
        if summaries:
            parameters = summaries[0]["parameters"]
            row |= {
                "samples_per_second": median(s["samples_per_second"] for s in summaries),
                "table_parameters": parameters["tables"],
                "tower_parameters": parameters["tower"],
                "epochs_to_best": fmean(s["epochs_to_best"] for s in summaries),
            }
            if whole := [seconds for s in summaries if (seconds := _seconds(s)) is not None]:
                row["seconds"] = median(whole)
        return row

    # ------------------------------------------------------------ for people

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns header and rows of the table for people; rows of models without a finished run say so."""
        rows = [self._cells(self.row(model)) for model in self.models]
        return ["model", *self.shown, *FACTS], rows

    def _cells(self, row: dict[str, Any]) -> list[str]:
        name, asked = row["model"], self.seeds
        if row["failed"]:
            name += f" ({row['failed']} of {asked} failed)"
        elif row["runs"] < asked:
            name += f" ({row['runs']} of {asked} done)"
        shown = [_spread(row.get(metric), row.get(f"{metric}_std")) for metric in self.shown]
        counts = ("samples_per_second", "table_parameters", "tower_parameters")
        rest = [f"{row[key]:,.0f}" if key in row else "-" for key in counts]
        rest += [f"{row['epochs_to_best']:.1f}" if "epochs_to_best" in row else "-"]
        rest += [f"{row['seconds']:,.0f}" if "seconds" in row else "-"]
        return [name, *shown, *rest]

    def left_out(self) -> list[str]:
        """Returns a line for each metric that is undefined and each split that was not scored, and in which runs."""
        runs: dict[str, list[str]] = {}
        done = [outcome for model in self.models for outcome in self.runs(model)]
        for outcome in done:
            for line in left_out(outcome.summary or {}):
                runs.setdefault(line, []).append(f"{outcome.model} seed {outcome.seed}")
        return [line + ("" if len(of) == len(done) else f" [{', '.join(of)}]") for line, of in runs.items()]

    def print(self, console: Console) -> None:
        """Prints the table and, below it, what has no numbers, and why runs failed."""
        header, rows = self.cells()
        title = f"{self.split} split, {self.seeds} seed(s)"
        columns = [name.replace(" ", "\n") for name in header]
        print_table(console, plain_table(columns, rows, left=("model",), title=title))
        for line in self.left_out():
            console.print(line, soft_wrap=True, markup=False)
        for outcome in self.failures:
            line = f"failed: {outcome.model}, seed {outcome.seed}: {outcome.failure}"
            console.print(line, soft_wrap=True, markup=False)

    # ------------------------------------------------------------ files

    @staticmethod
    def check_writable(folder: Path) -> None:
        """Raises UserError where files in `folder` have the names of those that are written, and are others."""
        is_earlier = (folder / "compare.csv").exists()
        for name, pattern in _FILES.items():
            check_own_file(folder / name, pattern)
        if not is_earlier:
            check_own_picture(folder / _PICTURE)

    def write(self, folder: Path) -> None:
        """Writes compare.csv, runs.csv, compare.md and compare.png in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "compare.csv", map(self.row, self.models))
        write_csv(folder / "runs.csv", map(_run_row, sorted(self.outcomes, key=self._place)))
        write_atomically(folder / "compare.md", self.markdown())
        if metrics := self._drawn():
            self._plot(folder / _PICTURE, metrics)

    def markdown(self) -> str:
        """Returns the table for people as Markdown."""
        header, rows = self.cells()
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return table + "".join(f"\n{line}\n" for line in self.left_out())

    def _place(self, outcome: Outcome) -> tuple[int, int]:
        return self.models.index(outcome.model), outcome.seed

    def _drawn(self) -> list[str]:
        """Returns the metrics that the plot has: normalized entropy is as log loss, scaled."""
        names = [name for name in self.shown if any(self.values(model, name) for model in self.models)]
        return [name for name in names if name != "normalized_entropy"][:PANELS]

    def _plot(self, path: Path, metrics: Sequence[str]) -> None:
        """Draws a panel a metric and a line a model: mean and standard deviation, the single seeds behind them."""
        done = [model for model in self.models if self.runs(model)]
        figure = Figure(figsize=(1.5 + 3.2 * len(metrics), 1.2 + 0.32 * len(done)), layout="constrained", dpi=150)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            for place, model in enumerate(done):
                values = self.values(model, metric)
                if not values:
                    continue
                spread = stdev(values) if len(values) > 1 else None
                axes.plot(values, [place] * len(values), "o", color="0.7", markersize=3)
                axes.errorbar(fmean(values), place, xerr=spread, fmt="o", color="tab:blue", markersize=4, capsize=3)
            axes.set_xlabel(f"{metric} ({self.split})")
            axes.grid(axis="x", color="0.9")
            axes.locator_params(axis="x", nbins=5)
            axes.tick_params(axis="x", labelsize=8)
        panels[0].set_yticks(range(len(done)), done)
        panels[0].set_ylim(len(done) - 0.5, -0.5)
        write_picture(path, figure)


def _seconds(summary: dict[str, Any]) -> float | None:
    """Returns a run's time, of all its stages; None for one that was resumed, whose summary is of the end alone."""
    parts = list(summary.get("stages", {"": summary}).values())
    return None if any(part["first_step"] for part in parts) else sum(part["wall_seconds"] for part in parts)


def _run_row(outcome: Outcome) -> dict[str, Any]:
    """Returns one line of runs.csv: every metric of every split, and the summary's single values."""
    row: dict[str, Any] = {"model": outcome.model, "seed": outcome.seed}
    if outcome.summary is None:
        return row | {"failure": outcome.failure}
    for name, value in outcome.summary.items():
        if name not in ("metrics", "undefined", "not_scored", "parameters", "stages"):
            row[name] = value
    parameters = outcome.summary["parameters"]
    row |= {"table_parameters": parameters["tables"], "tower_parameters": parameters["tower"]}
    for split, metrics in outcome.summary["metrics"].items():
        row |= {f"{split}/{name}": nan if value is None else value for name, value in metrics.items()}
    return row


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    if isnan(mean):
        return UNDEFINED
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
