"""A report says what the policies came to, over seeds: a table to print, table.csv, metrics.parquet and a picture.

Of an episode: its click rate over all days and over the last third of them; lift, the latter over that of the first
policy in the same world; diversity and activeness over the last
third; returns a day; the share of users lost in the end; CPU seconds. Of a policy: mean and sample standard deviation
of its episodes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.data_pipeline.files.sealed_parquet import SEAL, write_sealed
from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.trainer.run_folder.atomic import check_own_picture, write_csv
from shardrec.trainer.run_folder.terminal import plain_table, print_table
from shardrec.trainer.simulation.chart import draw_policies
from shardrec.trainer.simulation.episode import METRICS, SPENT, episode_folder
from shardrec.trainer.simulation.lived_days import LivedDays
from shardrec.trainer.simulation.run_file import SimulationConfig

TABLE, PICTURE = "table.csv", "policies.png"
COLUMNS = {
    "click_rate": "click rate",
    "click_rate_last": "last third",
    "lift": "lift",
    "diversity_shown": "diversity shown",
    "diversity_clicked": "diversity clicked",
    "activeness": "activeness",
    "returns": "returns a day",
    "lost": "lost",
    "cpu_seconds": "CPU seconds",
}
"""What an episode comes to -> what the printed table calls it."""


@dataclass(frozen=True)
class Lived:
    """A lived episode has a row for each day that is over, as `Measures.end` gives it, and its CPU time."""

    policy: str
    seed: int
    rows: Sequence[Mapping[str, Any]]
    cpu_seconds: float

    def figures(self, shown: int) -> dict[str, float]:
        """Returns what it came to, by the names of `COLUMNS`; shown: items a request."""
        last = self.rows[-ceil(len(self.rows) / 3) :]
        figures = {"click_rate": _click_rate(self.rows, shown), "click_rate_last": _click_rate(last, shown)}
        figures |= {name: _mean(last, name) for name in ("diversity_shown", "diversity_clicked", "activeness")}
        return figures | {
            "returns": _mean(self.rows, "returns"),
            "lost": self.rows[-1]["lost"],
            "cpu_seconds": self.cpu_seconds,
        }


class SimulationReport:
    """A report is of all episodes of a simulation of which there is a day or more: `lived`."""

    def __init__(self, config: SimulationConfig) -> None:
        self.run, self.settings = config.run_folder, config.simulation
        simulation = config.simulation
        found = [_lived(self.run, policy, seed) for policy in simulation.policies for seed in range(simulation.seeds)]
        self.lived = [episode for episode in found if episode is not None]

    @staticmethod
    def check_writable(run: Path) -> None:
        """Raises UserError where files in `run` have the names of those that are written, and are others."""
        check_own_file(run / TABLE, rb"policy,seeds,days.*")
        check_own_file(run / METRICS, rb"PAR1.*" + SEAL + rb".*")
        check_own_picture(run / PICTURE)

    def table(self) -> list[dict[str, Any]]:
        """Returns a row for each policy: seeds, days (the fewest of its episodes), mean and `_std` of each figure."""
        rows = []
        for policy in self.settings.policies:
            lived = [episode for episode in self.lived if episode.policy == policy]
            if not lived:
                continue
            row: dict[str, Any] = {"policy": policy, "seeds": len(lived), "days": min(len(e.rows) for e in lived)}
            figures = [episode.figures(self.settings.shown) | {"lift": self._lift(episode)} for episode in lived]
            for name in COLUMNS:
                values = [of_one[name] for of_one in figures if not isnan(of_one[name])]
                row[name] = fmean(values) if values else nan
                row[f"{name}_std"] = stdev(values) if len(values) > 1 else nan
            rows.append(row)
        return rows

    def _lift(self, episode: Lived) -> float:
        """Returns its click rate over that of the first policy under the same seed, in the last third; NaN without."""
        by_key = {(other.policy, other.seed): other for other in self.lived}
        first = by_key.get((self.settings.policies[0], episode.seed))
        rates = [e.figures(self.settings.shown)["click_rate_last"] for e in (episode, first) if e is not None]
        return rates[0] / rates[1] if len(rates) == 2 and rates[1] else nan

    def write(self, *, picture: bool = True) -> None:
        """Writes metrics.parquet, table.csv and policies.png, where there is anything to say.

        picture: whether it is drawn too, which takes longer than the rest.
        """
        if not self.lived:
            return
        self.check_writable(self.run)
        days = [{"policy": e.policy, "seed": e.seed, **row} for e in self.lived for row in e.rows]
        with whole_file(self.run / METRICS) as temporary:
            write_sealed(pa.Table.from_pylist(days), temporary)
        write_csv(self.run / TABLE, self.table())
        if picture:
            draw_policies(days, self.settings.policies, self.run / PICTURE)

    def print(self, console: Console) -> None:
        """Prints the table."""
        lines = []
        for row in self.table():
            cells = [_spread(row[name], row[f"{name}_std"], digits=1 if "seconds" in name else 4) for name in COLUMNS]
            lines.append([row["policy"], str(row["seeds"]), str(row["days"]), *cells])
        columns = [name.replace(" ", "\n") for name in ("policy", "seeds", "days", *COLUMNS.values())]
        print_table(console, plain_table(columns, lines, left=("policy",)))


def _lived(run: Path, policy: str, seed: int) -> Lived | None:
    """Returns what is there of an episode; None where no day is over. Raises UserError for damaged files."""
    folder = episode_folder(run, policy, seed)
    try:
        rows = pq.read_table(folder / METRICS).to_pylist()
        lived = LivedDays.of({"rows": rows, **json.loads((folder / SPENT).read_text())})
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, TypeError, RecursionError) as error:
        line = f"{folder}: {METRICS} or {SPENT} is not what a simulation leaves ({' '.join(str(error).split())})"
        raise UserError(f"{line}; remove {folder} to begin it anew") from error
    return Lived(policy, seed, lived.rows, lived.cpu_seconds)


def _click_rate(rows: Sequence[Mapping[str, Any]], shown: int) -> float:
    requests = sum(row["requests"] for row in rows)
    return float(sum(row["clicks"] for row in rows) / (requests * shown)) if requests else nan


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if not isnan(row[name])]
    return fmean(values) if values else nan


def _spread(mean: float, deviation: float, digits: int) -> str:
    if isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if isnan(deviation) else f" ± {deviation:.{digits}f}")
