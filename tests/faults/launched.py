"""A run in processes of its own, by any launcher: it can be watched, hurt, and started again."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from shardrec.trainer.run_folder.folder import RunFolder
from tests.faults.cluster import OF_RUNS, actors
from tests.processes import forkserver
from tests.trainer.started import command
from tests.trainer.torchrun import run_agent

RESTARTS = 3  # that torchrun's agent makes by itself
PATIENCE = 240.0  # seconds that any one thing may take


class StuckError(Exception):
    """The error of a run that hangs, or ends otherwise than it should, or does not go on."""


class Launched:
    """A launched run is a training by one launcher; `start` starts it, again and again, with --resume auto."""

    last_step, every = 66, 7
    """Steps of a run, and steps between its checkpoints."""

    def __init__(
        self, launcher: str, run_file: Path, scratch: Path, overrides: Sequence[str], at: str | None = None
    ) -> None:
        self.launcher, self.scratch, self.folder = launcher, scratch, RunFolder(scratch / "run")
        words = [word for override in (f"run={at or self.folder.path}", *overrides) for word in ("--set", override)]
        self.prepare: Callable[[], None] = _nothing
        """Is called first in each process that the run is started in."""
        self._words = ["train", str(run_file), "--quiet", "--resume", "auto", *words]
        self._starts = 0
        self.process: BaseProcess
        self.sessions: list[int] = []

    # ------------------------------------------------------------ from without

    def start(self) -> None:
        """Starts the run, or goes on with it."""
        self._starts += 1
        self.temporary.mkdir(exist_ok=True)
        target = _ranks if self.launcher == "torchrun" else _alone
        self.process = forkserver().Process(target=target, args=(self.temporary, self.prepare, self.log, self._words))
        self.process.start()
        assert self.process.pid is not None
        self.sessions.append(self.process.pid)

    @property
    def temporary(self) -> Path:
        """The folder of its temporary files."""
        return self.scratch / "tmp"

    @property
    def log(self) -> Path:
        """What the run prints; under torchrun a folder with a file of each rank."""
        return self.scratch / f"said-{self._starts}"

    def said(self) -> list[str]:
        """What each of the run's processes that the user hears of has printed since the last start."""
        logs = sorted(self.log.glob("[0-9]*.log")) if self.log.is_dir() else [self.log]
        return [log.read_text() for log in logs if log.exists()]

    def end(self) -> int:
        """Waits for the process's end; returns its exit code."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.kill()
            raise StuckError(f"no end within {PATIENCE:g} s; it said: {self.said()}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self) -> None:
        """Ends all that is left of the run."""
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """All processes that the run has started and that are there still."""
        found = [process for name in OF_RUNS for process in actors(name)] if self.launcher.startswith("ray") else []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) in self.sessions and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that train, in no order."""
        if self.launcher == "in_process":
            return [psutil.Process(self.process.pid)]
        if self.launcher.startswith("ray"):
            return actors("RayTrainWorker")
        return psutil.Process(self.process.pid).children()

    # ------------------------------------------------------------ how far it is

    def progress(self) -> tuple[str, int]:
        """(phase, steps trained) by the run's own word; empty before there is one."""
        logs = sorted(self.folder.path.glob("logs/train-*/progress.json"))
        try:
            said = json.loads(logs[-1].read_text())
        except (IndexError, OSError, ValueError):
            return "", 0
        return said["phase"], said["trained"]

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written."""
        return any(self.folder.checkpoints.glob(".step-*.tmp"))

    def whole(self) -> RunFolder:
        """Returns the folder of all that there is of the run."""
        return self.folder

    def until(self, reached: Callable[[], bool]) -> bool:
        """Waits until something is so; says whether it was before the run was over."""
        began = time.monotonic()
        while self.process.is_alive():
            if reached():
                return True
            if time.monotonic() - began > PATIENCE:
                self.kill()
                raise StuckError(f"{self.progress()} after {PATIENCE:g} s; it said: {self.said()}")
            time.sleep(0.0005)
        return False


def _nothing() -> None:
    """Prepares nothing."""


def _alone(temporary: Path, prepare: Callable[[], None], log: Path, words: list[str]) -> None:
    _apart(temporary)
    prepare()
    command(log, words)


def _ranks(temporary: Path, prepare: Callable[[], None], logs: Path, words: list[str]) -> None:
    _apart(temporary)
    prepare()
    logs.mkdir(exist_ok=True)
    for descriptor in (1, 2):
        os.dup2(os.open(logs / "agent", os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    run_agent(2, RESTARTS, logs, words)


def _apart(temporary: Path) -> None:
    """Makes this process the first of a session, whose temporary files lie apart from others'."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a campaign in the background may ignore it
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
