"""A trial is one run and one fault: the run has to end as the one that nothing befell, with nothing left behind."""

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from shardrec.data_pipeline.errors import UserError
from tests.faults import elastic, faults
from tests.faults.cluster import OF_RUNS, actors, cluster_of
from tests.faults.launched import EVERY, LAST_STEP, Launched, TooLongError
from tests.trainer.recorded import assert_same_checkpoint, records
from tests.trainer.small_run import run_file, write_data

ROWS = 2400
SETTINGS = {
    "trainer": {
        "epochs": 3,
        "checkpoint": {"every_steps": EVERY},
        "evaluation": {"every_steps": 5},
        "log_every_steps": 1,
    },
    "tables": {
        "item": {"dtype": "fp16"},  # rounded by draws that have to go on, too
        "user": {"dynamic": {"rows": 120, "after": 2}},  # of 301 users
    },
    "launch": {"timeout": 8},
}
BEGINNINGS = r": (starts a new run|goes on from step \d+)$|^shardrec: goes on |^warning: "
KILLED = (-9, 137)
OTHERS = r"run/(logs|tensorboard)/|tmp/pytorch-errorfile"  # logs of each start; a file of torchrun's agent
MOST_STARTS = 6
ENDS_WITHIN = 20.0  # seconds


@dataclass(frozen=True)
class Trial:
    """A trial is what befalls a run by which launcher, at which moment; its seed draws the rest."""

    seed: int
    launcher: str
    fault: str
    moment: str

    @classmethod
    def drawn(cls, launcher: str, seed: int) -> "Trial":
        """Returns the trial of a seed: each fault at each moment in turn."""
        moments = ("step",) if launcher == "elastic" else faults.MOMENTS
        kinds = [(fault, moment) for fault in FAULTS[launcher] for moment in moments]
        return cls(seed, launcher, *kinds[seed % len(kinds)])


FAULTS: Mapping[str, Mapping[str, Any]] = {
    "in_process": faults.ALONE,
    "torchrun": faults.RANKS,
    "ray-2": faults.ON_RAY,
    "ray-3": faults.ON_RAY,
    "elastic": elastic.EVENTS,
}
"""By launcher, what can befall its runs."""


@dataclass
class Outcome:
    """An outcome is how a trial ended; one that is `sound` lost nothing, repeated nothing and left nothing behind.

    befell: whether the fault came before the run was over. codes: exit codes of all starts but the last. lines: what
    the user was told by those. steps_again: steps that were done again from the last checkpoint. recovered: seconds
    from the fault to the next step that had not been made before.
    """

    befell: bool = False
    codes: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    equal: bool = False
    rows_lost: int = 0
    rows_repeated: int = 0
    steps_again: int = 0
    recovered: float = 0.0
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Returns whether all was as it should be."""
        return self.equal and not (self.rows_lost or self.rows_repeated or self.left or self.wrong)


class Bench:
    """A bench is a folder with the data of all trials, and by launcher the run that nothing befalls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._undisturbed: dict[str, Launched] = {}
        self._cluster: Cluster | None = None
        self._machines: elastic.Machines | None = None

    def close(self) -> None:
        """Stops what was started for trials."""
        if self._cluster is not None:
            self._cluster.shutdown()
        if self._machines is not None:
            self._machines.shut_down()

    @cached_property
    def data(self) -> Path:
        """Returns the folder of the rows."""
        return write_data(self.folder / "data", rows=ROWS)

    def undisturbed(self, launcher: str) -> Launched:
        """Returns the run that nothing befell, made once."""
        if launcher not in self._undisturbed:
            run = self.launched(launcher, self.folder / f"undisturbed-{launcher}")
            run.start()
            assert run.end() == 0, run.said()
            assert run.folder.steps()[-1] == LAST_STEP
            self._undisturbed[launcher] = run
        return self._undisturbed[launcher]

    def launched(self, launcher: str, scratch: Path) -> Launched:
        """Returns a run with rows of its own, not yet started."""
        shutil.copytree(self.data, scratch / "data")
        overrides: tuple[str, ...] = ()
        if launcher.startswith("ray"):
            self._cluster = self._cluster or cluster_of([3])
            overrides = (f"launch.address={self._cluster.address}", f"launch.workers={launcher[-1]}")
        return Launched(launcher, run_file(scratch / "run.yaml", scratch / "data", **SETTINGS), scratch, overrides)

    def tried(self, trial: Trial) -> Outcome:
        """Makes a trial."""
        if trial.launcher == "elastic":
            return self._elastic(trial)
        expected = self.undisturbed(trial.launcher)
        scratch = self.folder / f"{trial.launcher}-{trial.seed}"
        run, outcome, began = self.launched(trial.launcher, scratch), Outcome(), time.monotonic()
        try:
            _make(trial, run, outcome)
            _compare(run, expected, outcome)
        except TooLongError as error:
            outcome.wrong.append(str(error))
        finally:
            run.kill()
        outcome.seconds = round(time.monotonic() - began, 2)
        if outcome.sound:
            shutil.rmtree(scratch)
        return outcome

    def _elastic(self, trial: Trial) -> Outcome:
        """Makes a trial on a cluster that changes once."""
        draw, outcome, began = random.Random(f"elastic {trial.seed}"), Outcome(befell=True), time.monotonic()
        count = draw.choice(elastic.BEGIN_WITH.get(trial.fault, (2, 3)))
        self._machines = self._machines or elastic.Machines(count)
        self._machines.restore(count)
        scratch = self.folder / f"elastic-{trial.seed}"
        scratch.mkdir()
        file = run_file(scratch / "run.yaml", self.data, model=elastic.WITHOUT_DRAWS)
        run = elastic.ElasticRun(file, scratch / "run", self._machines.address)
        try:
            run.until(lambda: run.has_saved(1))
            outcome.recovered = round(elastic.befallen(run, self._machines, trial.fault, draw), 2)
            run.ended()
            run.assert_as_undisturbed(scratch / "undisturbed")
            outcome.equal = True
        except AssertionError as error:
            outcome.wrong.append(str(error)[-1500:])
        finally:
            run.process.kill()
        outcome.steps_again = sum(again for _, _, again in run.groups())
        outcome.left = [f"process {p.pid}: {p.name()}" for name in OF_RUNS for p in _gone(lambda n=name: actors(n))]
        outcome.seconds = round(time.monotonic() - began, 2)
        if outcome.sound:
            shutil.rmtree(scratch)
        return outcome


def _make(trial: Trial, run: Launched, outcome: Outcome) -> None:
    """Starts the run, lets the fault befall it, and goes on until it is finished."""
    draw = random.Random(f"{trial.launcher} {trial.seed}")
    run.start()
    outcome.befell = faults.MOMENTS[trial.moment](run, draw)
    done, befell = run.progress()[1], time.monotonic()
    if outcome.befell:
        try:
            FAULTS[trial.launcher][trial.fault](run, draw)
        except (ProcessLookupError, IndexError, psutil.Error):
            outcome.befell = False  # it was over meanwhile
    while True:
        if run.until(lambda: run.progress()[1] > done) and not outcome.recovered:
            outcome.recovered = round(time.monotonic() - befell, 2)
        code = run.end()
        if code == 0:
            return
        outcome.codes.append(code)
        outcome.recovered = 0.0
        words = [_last_words(said) for said in run.said()]
        outcome.lines.append("; ".join(words))
        if any("\n" in line for line in words) or (not any(words) and code not in KILLED):
            outcome.wrong.append(f"ended with {code}, and said: {words}")
        if len(outcome.codes) == MOST_STARTS:
            outcome.wrong.append(f"does not go on, however often it is started: {outcome.codes}")
            return
        run.start()


def _last_words(said: str) -> str:
    """What a command said as it ended: all but how it began, and what else could not be written."""
    return "\n".join(line for line in dict.fromkeys(said.splitlines()) if not re.search(BEGINNINGS, line))


def _compare(run: Launched, expected: Launched, outcome: Outcome) -> None:
    """Compares a finished run with the one that nothing befell, and looks for what it has left behind."""
    summary = run.folder.summary()
    if summary is None:
        outcome.wrong.append("no summary")
        return
    there = expected.folder.summary()
    assert there is not None
    outcome.rows_lost = max(0, there["rows"] - summary["rows"])
    outcome.rows_repeated = max(0, summary["rows"] - there["rows"])
    last = f"step-{LAST_STEP}"
    try:
        assert_same_checkpoint(run.folder.checkpoints / last, expected.folder.checkpoints / last)
        assert records(run.folder) == records(expected.folder)
        assert summary["metrics"] == there["metrics"]
        outcome.equal = True
    except (AssertionError, OSError, UserError) as error:
        outcome.wrong.append(f"{type(error).__name__}: {str(error)[:500]}")
    starts = [record for record in run.folder.records() if record["kind"] == "start"]
    outcome.steps_again = sum(start["steps_again"] for start in starts)
    outcome.left = sorted(_files(run) - _files(expected)) + _processes(run)


def _files(run: Launched) -> set[str]:
    """What the run has left in its folder and among temporary files, whichever steps it has kept, but for its logs."""
    of_run = (path.relative_to(run.scratch).as_posix() for path in run.folder.path.rglob("*"))
    temporary = (path.relative_to(run.scratch).as_posix() for path in (run.scratch / "tmp").rglob("*"))
    names = {name for name in (*of_run, *temporary) if not re.match(OTHERS, name)}
    return {re.sub(r"/step-\d+", "/step-N", name) for name in names}


def _processes(run: Launched) -> list[str]:
    """What is there of the run's processes, once they have had time to end: Ray's take seconds."""
    return [f"process {process.pid}: {process.name()}" for process in _gone(run.processes)]


def _gone(there: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """Waits until processes are gone, but not for ever; returns those that are not."""
    until = time.monotonic() + ENDS_WITHIN
    while (left := there()) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def as_line(trial: Trial, outcome: Outcome) -> str:
    """Returns a trial and its outcome as a line of JSON."""
    return json.dumps(asdict(trial) | asdict(outcome) | {"sound": outcome.sound})
