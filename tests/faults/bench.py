"""A bench makes trials: it has their data, by launcher the run that nothing befalls, the clusters and the store."""

import random
import shutil
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.faults import elastic
from tests.faults.cluster import OF_RUNS, actors, cluster_of
from tests.faults.course import run_through
from tests.faults.launched import Launched, StuckError
from tests.faults.stores import InStore
from tests.faults.trial import Outcome, Struck, Trial
from tests.faults.verdict import compare, processes_left
from tests.object_store import ObjectStore, object_store
from tests.trainer.small_run import run_file, write_data

ROWS = 2400
SETTINGS: dict[str, Any] = {
    "trainer": {
        "epochs": 6,
        "evaluation": {"every_steps": 5},
        "log_every_steps": 1,
    },
    "tables": {
        "item": {"dtype": "fp16"},  # rounded by draws that have to go on, too
        "user": {"dynamic": {"rows": 120, "after": 2}},  # of 301 users
    },
    "launch": {"timeout": 8},
}


class Bench:
    """A bench has a folder for all that its trials make; one that is sound is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._undisturbed: dict[str, Launched] = {}
        self._started = ExitStack()

    def close(self) -> None:
        """Stops what was started for trials."""
        self._started.close()

    @cached_property
    def _data(self) -> Path:
        return write_data(self.folder / "data", rows=ROWS)

    @cached_property
    def _cluster(self) -> Cluster:
        cluster = cluster_of([3])
        self._started.callback(cluster.shutdown)
        return cluster

    @cached_property
    def _machines(self) -> elastic.Machines:
        machines = elastic.Machines(1)
        self._started.callback(machines.shut_down)
        return machines

    @cached_property
    def _store(self) -> ObjectStore:
        return self._started.enter_context(object_store())

    def launched(self, launcher: str, scratch: Path, *, background: bool = False) -> Launched:
        """Returns a run with rows of its own, not yet started. background: checkpoints are written so."""
        shutil.copytree(self._data, scratch / "data")
        checkpoint = {"checkpoint": {"every_steps": Launched.every, "background": background}}
        settings = SETTINGS | {"trainer": SETTINGS["trainer"] | checkpoint}
        file = run_file(scratch / "run.yaml", scratch / "data", **settings)
        if launcher == "store":
            return InStore(file, scratch, self._store)
        overrides: tuple[str, ...] = ()
        if launcher.startswith("ray"):
            overrides = (f"launch.address={self._cluster.address}", f"launch.workers={launcher[-1]}")
        return Launched(launcher, file, scratch, overrides)

    def undisturbed(self, launcher: str) -> Launched:
        """Returns the run that nothing befell, made once."""
        if launcher not in self._undisturbed:
            run = self.launched(launcher, self.folder / f"undisturbed-{launcher}")
            run.start()
            assert run.end() == 0, run.said()
            assert run.whole().steps()[-1] == run.last_step
            self._undisturbed[launcher] = run
        return self._undisturbed[launcher]

    def tried(self, trial: Trial) -> Outcome:
        """Makes a trial."""
        scratch = self.folder / f"{trial.launcher}-{trial.seed}"
        outcome, began = Outcome(), time.monotonic()
        try:
            (self._try_elastic if trial.launcher == "elastic" else self._try)(trial, scratch, outcome)
        except (StuckError, AssertionError) as error:
            outcome.wrong.append(str(error)[-1500:])
        outcome.seconds = round(time.monotonic() - began, 2)
        if outcome.sound:
            shutil.rmtree(scratch)
        return outcome

    def _try(self, trial: Trial, scratch: Path, outcome: Outcome) -> None:
        expected, run = (
            self.undisturbed(trial.launcher),
            self.launched(trial.launcher, scratch, background=trial.seed % 2 == 1),
        )
        try:
            run_through(trial, run, outcome)
            compare(run, expected, outcome)
        finally:
            run.kill()

    def _try_elastic(self, trial: Trial, scratch: Path, outcome: Outcome) -> None:
        """Makes a trial on a cluster whose machines come and go."""
        draw = random.Random(f"elastic {trial.seed}")
        self._machines.restore(elastic.drawn(trial.seed, len(trial.faults)).machines)
        scratch.mkdir()
        file = run_file(scratch / "run.yaml", self._data, model=elastic.SMOOTH)
        run = elastic.ElasticRun(file, scratch / "run", self._machines.address)
        try:
            run.until(lambda: run.has_saved(1))
            for event, moment in trial.faults:
                outcome.struck.append(struck := Struck(event, moment, befell=True))
                struck.recovered = round(elastic.befallen(run, self._machines, event, draw), 2)
            run.ended()
            outcome.steps_again = sum(again for _, _, again in run.groups())
            run.assert_as_undisturbed(scratch / "undisturbed")
            outcome.equal = True
        finally:
            run.process.kill()
        outcome.left = [left for name in OF_RUNS for left in processes_left(lambda name=name: actors(name))]
