"""A run in an object store, which may go on on another machine each time; and what befalls a store."""

import os
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from shardrec.data_pipeline.stores import filesystems, mirrors, retries
from shardrec.trainer.run_folder import store_lock
from shardrec.trainer.run_folder.folder import RunFolder
from tests.faults import faults, launched
from tests.faults.faults import Fault
from tests.object_store import BUCKET, ObjectStore
from tests.object_store import Fault as Broken

MOST_REQUESTS = 12


class InStore(launched.Launched):
    """A run in a store reads its rows from there, too; every other start is on another machine."""

    def __init__(self, run_file: Path, scratch: Path, store: ObjectStore) -> None:
        self.store, self._name = store, scratch.name
        for file in (scratch / "data").rglob("*.*"):
            store.write(f"{self._name}/data/{file.relative_to(scratch / 'data').as_posix()}", file.read_bytes())
        self._at = f"s3://{BUCKET}/{self._name}/run"
        super().__init__("store", run_file, scratch, (f"data.path=s3://{BUCKET}/{self._name}/data",), at=self._at)

    def start(self) -> None:
        """Starts the run, or goes on with it, with a store that does what it is asked for."""
        self.store.faults.clear()
        machine = self.scratch / f"machine-{self._starts // 2}"
        self.folder = RunFolder(machine / mirrors.local(self._at).relative_to(mirrors.mirrors()))
        self.prepare = partial(_find, self.store.as_seen(machine))
        super().start()

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written."""
        return self.progress()[0].startswith("saving")

    def whole(self) -> RunFolder:
        """Returns a copy of all that the store has of the run."""
        copy = self.scratch / "whole"
        for name in self.store.names(f"{self._name}/run"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(self.store.read(f"{self._name}/run/{name}"))
        return RunFolder(copy)


def _find(variables: dict[str, str]) -> None:
    """Has this process find a store, and be quick to try again."""
    os.environ.update(variables)
    retries.FIRST_PAUSE = 0.02
    filesystems.REQUESTS = 1  # pyarrow would pause between its own
    store_lock._SETTLING_SECONDS = 0.2


def breaks(kind: str, pattern: str = ".") -> Fault:
    """A few of a store's answers are broken, after some that are not."""

    def befall(run: launched.Launched, draw: random.Random) -> None:
        assert isinstance(run, InStore)
        times = draw.randrange(1, MOST_REQUESTS if kind != "slow" else 3)
        run.store.faults.append(Broken(pattern, kind, times=times, spared=draw.randrange(20), seconds=0.5))  # type: ignore[arg-type]

    return befall


def is_away(kind: str) -> Fault:
    """The store answers nothing else from some request on, until the run has ended."""

    def befall(run: launched.Launched, draw: random.Random) -> None:
        assert isinstance(run, InStore)
        run.store.faults.append(Broken(".", kind, spared=draw.randrange(20)))  # type: ignore[arg-type]
        run.process.join(launched.PATIENCE)

    return befall


FAULTS: Mapping[str, Fault] = {
    **{name: fault for name, fault in faults.ALONE.items() if name in ("killed", "SIGTERM", "Ctrl-C", "paused")},
    "errors of the store": breaks("500"),
    "answers cut short": breaks("cut", "GET"),
    "connections closed": breaks("closed"),
    "slow answers": breaks("slow"),
    "the store is away": is_away("500"),
    "credentials are lost": is_away("403"),
}
"""What befalls a run in a store, and its store."""
