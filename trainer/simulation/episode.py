"""An episode is one policy with one seed: days of ticks, minor and major updates, a log, measures.

EPISODE/log/           what was shown and what came of it
EPISODE/metrics.parquet  a row a day
EPISODE/spent.json     CPU seconds so far
EPISODE/state/day-N/   all that the next day begins with, complete or absent
EPISODE/policy/        what the policy keeps on disk beside that
EPISODE/summary.json   once it is over
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import Marker, remove_if_empty, remove_owned
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.data_pipeline.files.whole_files import whole_file, whole_folder
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.simulation.lived_days import LivedDays
from shardrec.trainer.simulation.log import TransitionLog
from shardrec.trainer.simulation.log_schema import log_schema
from shardrec.trainer.simulation.measures import Measures
from shardrec.trainer.simulation.policies import PolicyContext
from shardrec.trainer.simulation.registry import make_policy
from shardrec.trainer.simulation.run_file import SimulationConfig
from shardrec.trainer.simulation.world import World

METRICS, SPENT, SUMMARY = "metrics.parquet", "spent.json", "summary.json"
POLICY = "policy"
FOLDERS = ("log", "state", POLICY)
_DAY = re.compile(r"day-(\d{4,})")


def episode_folder(run: str | Path, policy: str, seed: int) -> Path:
    """Returns the folder of an episode."""
    return Path(run) / f"{policy}-{seed}"


class Episode:
    """An episode goes on from the last day in its folder, or begins; `run` takes it to its end.

    rows: what each day came to. day: how many days are over. cpu_seconds: of this process and those that it waited for.
    """

    def __init__(self, config: SimulationConfig, policy: str, seed: int) -> None:
        self.settings, self.folder = config.simulation, episode_folder(config.run, policy, seed)
        self.world = World(self.settings, seed)
        self.log = TransitionLog(self.folder / "log", self.settings)
        self.measures = Measures(self.world)
        schema = log_schema(self.settings)
        context = PolicyContext(policy, seed, config, schema, self.folder / POLICY, self.world)
        self.policy = make_policy(context)
        self.rows: list[dict[str, Any]] = []
        self.day = 0
        self.cpu_seconds = 0.0
        if kept := _kept_days(self.folder):
            self._load(max(kept))

    def run(self, progress: Callable[[int], None] = lambda days: None) -> None:
        """Lives through the days that are left; `progress` is told how many are over after each."""
        began, before = _cpu_seconds(), self.cpu_seconds
        while self.day < self.settings.days:
            try:
                self._live()
            except BaseException:
                self.log.give_up()
                raise
            self.cpu_seconds = before + _cpu_seconds() - began
            self._save()
            progress(self.day)
        write_atomically(self.folder / SUMMARY, json.dumps({"days": self.day}) + "\n")

    # ------------------------------------------------------------ a day

    def _live(self) -> None:
        """Lives through one day."""
        day, ticks = self.day + 1, self.settings.ticks_of_day
        self.log.begin(day)
        for tick in range(self.day * ticks, day * ticks):
            self._tick(tick)
            if (tick + 1) % self.settings.ticks_of_minor == 0:
                self.policy.minor_update()
        night = self.world.time(day * ticks)
        if len(lost := self.log.overdue(night)):
            self.log.lost(lost, self.world.state(lost, night), self.world.users.activeness.at(night, lost), night)
        self.log.end()
        self.log.prune(day)
        if day % self.settings.major_days == 0:
            self.policy.major_update(self.log.folder, day)
        self.rows.append(self.measures.end(day, night))
        self.day = day

    def _tick(self, tick: int) -> None:
        requests = self.world.requests(tick)
        if not len(requests.user):
            return
        self.log.complete(requests, self.world.users.activeness.value[requests.user])
        shown = self.policy.choose(requests)
        clicks = self.world.respond(requests, shown, tick)
        self.log.keep(requests, shown, clicks)
        self.measures.add(requests, shown, clicks)
        self.policy.learn(requests, shown, clicks)

    # ------------------------------------------------------------ kept

    def _save(self) -> None:
        """Keeps the day that is over in place of the one before; the figures beside it can be made of it again."""
        with whole_file(self.folder / METRICS, synced=False) as temporary:
            write_sealed(pa.Table.from_pylist(self.rows), temporary)
        with whole_file(self.folder / SPENT, synced=False) as temporary:
            temporary.write_text(json.dumps({"cpu_seconds": round(self.cpu_seconds, 2)}) + "\n")
        with whole_folder(_state_folder(self.folder, self.day), _check_absent, listed=True) as folder:
            np.savez(folder / "users.npz", **self.world.users.state())  # type: ignore[arg-type]
            np.savez(folder / "log.npz", **self.log.state())  # type: ignore[arg-type]
            facts = {"rows": self.rows, "cpu_seconds": self.cpu_seconds}
            (folder / "episode.json").write_text(json.dumps(facts))
            (folder / POLICY).mkdir()
            self.policy.save(folder / POLICY)
            remove_if_empty(folder / POLICY)  # which its list of files does not name
        for earlier in (self.folder / "state").glob("day-*"):
            if _DAY.fullmatch(earlier.name) and earlier != _state_folder(self.folder, self.day):
                remove_owned(earlier)
                for left in (earlier / POLICY, earlier):  # by a kill on the way
                    remove_if_empty(left)

    def _load(self, day: int) -> None:
        folder = _state_folder(self.folder, day)
        try:
            self.world.users.load(_arrays(folder / "users.npz"))
            self.log.load(_arrays(folder / "log.npz"))
            lived = LivedDays.of(json.loads((folder / "episode.json").read_text()))
            self.rows, self.cpu_seconds, self.day = lived.rows, lived.cpu_seconds, day
            if len(self.rows) != day:
                raise ValueError(f"episode.json has {len(self.rows)} days")
            self.policy.load(folder / POLICY)
        except (ValueError, KeyError, TypeError, OSError, RecursionError, BadZipFile) as error:
            line = f"{folder}: not what a day of this simulation leaves ({' '.join(str(error).split())})"
            raise UserError(f"{line}; remove {self.folder} to begin it anew") from error


def finished(folder: Path) -> bool:
    """Says whether an episode is over."""
    return (folder / SUMMARY).exists()


def _state_folder(folder: Path, day: int) -> Path:
    return folder / "state" / f"day-{day:04d}"


def _kept_days(folder: Path) -> list[int]:
    """Returns the days whose state is there, whole."""
    found = (_DAY.fullmatch(path.name) for path in (folder / "state").glob("day-*"))
    days = (int(match[1]) for match in found if match)
    return sorted(day for day in days if (marker := Marker.read(_state_folder(folder, day))) and marker.files)


def _check_absent(place: Path) -> None:
    if place.exists():
        raise UserError(f"{place}: there already, where the state of a day is to be kept; move it away")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as kept:
        return dict(kept)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
