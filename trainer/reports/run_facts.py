"""Run facts are what a run folder tells of a run, whether it is finished, stopped or still training.

Nothing is believed of a folder that came from elsewhere: what is not of the type expected counts as absent, and no code
that it names is imported.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import parse, read
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import stage_names
from shardrec.trainer.reports.numbers import is_number
from shardrec.trainer.run_folder.final_curves import final_curves
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.launches import launches

SIMULATION = "simulation.yaml"
_EPISODE = "episode.json"

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class RunFacts:
    """Run facts are those of one run folder; `name` is what the page calls it."""

    folder: RunFolder
    name: str
    config: RunConfig
    records: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any] | None

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> "RunFacts":
        """Reads a run folder. Raises UserError where there is none, or its files are not what a run leaves."""
        path = path.resolve()
        folder = RunFolder(path)
        check_run_folder(path)
        config = parse(read(folder.config_file), str(folder.config_file))
        return cls(folder, name or "/".join(path.parts[-2:]), config, tuple(folder.records()), folder.summary())

    # ------------------------------------------------------------ how it stands

    @property
    def is_finished(self) -> bool:
        """Says whether the run is over, by its own word."""
        return self.summary is not None

    @property
    def model(self) -> str:
        """Returns the model's name, or the import path of somebody's own."""
        return str(self.config.model.get("name", "?"))

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Returns split -> metrics: of the best checkpoint, or of the best evaluation of a run that is not over."""
        if self.summary is not None:
            return {str(split): dict(of) for split, of in self.summary.get("metrics", {}).items()}
        step = self.best_step
        rows = [r for r in self.of_kind("validation") if r["step"] == step]
        return {"validation": values_of(rows[-1])} if rows else {}

    @cached_property
    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint, where one is known."""
        step = (self.summary or {}).get("best_step")
        return step if isinstance(step, int) else self.folder.best_step()

    @property
    def last_step(self) -> int:
        """Returns how far the run came."""
        return max((record["step"] for record in self.records), default=0)

    # ------------------------------------------------------------ records over time

    def of_kind(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """Yields the records of a kind, in order."""
        return (record for record in self.records if record["kind"] == kind)

    def series(self, kind: str, name: str) -> Series:
        """Returns a number of the records of a kind by step, as far as it is finite; later ones win."""
        found = {float(r["step"]): float(r[name]) for r in self.of_kind(kind) if is_number(r.get(name))}
        return sorted(found.items())

    def names(self, kind: str) -> list[str]:
        """Returns the names of numbers that records of a kind have, in order."""
        return list(dict.fromkeys(name for record in self.of_kind(kind) for name in values_of(record)))

    @property
    def resumed_at(self) -> list[int]:
        """Returns the steps from which the run was gone on with."""
        return [record["step"] for record in self.of_kind("start") if record.get("resumed")]

    @cached_property
    def steps_per_epoch(self) -> float | None:
        """Returns the steps of an epoch, where the run told."""
        told = [r["steps_per_epoch"] for r in self.of_kind("start") if is_number(r.get("steps_per_epoch"))]
        return told[-1] if told and told[-1] > 0 else None

    # ------------------------------------------------------------ what lies beside

    @cached_property
    def curves(self) -> dict[str, dict[str, Any]]:
        """Returns split -> binned curves of the best checkpoint; those of another step are not it."""
        found = final_curves(self.folder)
        return {s: of for s, of in found.items() if self.best_step is None or of.get("step") == self.best_step}

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Returns the plan's facts; nothing of a run that has no `plan.json`."""
        with suppress(OSError, ValueError, RecursionError):
            if isinstance(found := json.loads(self.folder.plan_file.read_bytes()), dict):
                return found
        return {}

    @cached_property
    def plan_text(self) -> str:
        """Returns the plan as it was printed."""
        with suppress(OSError):
            return (self.folder.path / "plan.txt").read_text(errors="replace")
        return ""

    @cached_property
    def launches(self) -> list[dict[str, Any]]:
        """Returns the commands that trained here, with the memory that each took over time."""
        return launches(self.folder)


def values_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a record says beside its kind, step and time: numbers, and None for those that are undefined."""
    other = ("kind", "step", "time", "undefined")
    return {k: v for k, v in record.items() if k not in other and (v is None or is_number(v))}


def is_of_stages(path: Path) -> bool:
    """Says whether a folder is that of a run of stages, which has a run folder for each of them."""
    return RunFolder(path).stages_file.is_file()


def stage_folders(path: Path) -> dict[str, Path]:
    """Returns stage -> its run folder, which need not be there yet. Raises UserError for a file that has no stages."""
    file = RunFolder(path).stages_file
    return {name: path / name for name in stage_names(read(file), str(file))}


def check_run_folder(path: Path) -> None:
    """Raises UserError where a folder is not a run's, with what it may be instead."""
    if RunFolder(path).config_file.is_file():
        return
    if is_of_stages(path):
        return
    if (path / SIMULATION).is_file() or (path / _EPISODE).is_file():
        raise UserError(
            f"{path}: a simulation, which is not one run: table.csv and policies.png in its folder say what it came "
            "to; name a run folder of `shardrec train`"
        )
    if (path / "compare.csv").is_file():
        runs = sorted(p.parent for p in path.glob("*/seed-*/config.yaml"))
        some = f": its runs, such as {runs[0]}" if runs else ""
        raise UserError(f"{path}: a comparison, whose runs are in folders of it; name these{some}")
    if (path / "study.yaml").is_file():
        raise UserError(
            f"{path}: a search, whose page, {path / 'report.html'}, `shardrec tune` writes; name a trial's folder in it"
        )
    if not path.exists():
        raise UserError(f"{path}: no such folder; name a run folder")
    raise UserError(f"{path}: not a run folder (no config.yaml in it)")
