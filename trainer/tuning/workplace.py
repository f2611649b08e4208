"""Trials are trained in processes of their own, side by side, or one after another in this one.

A process trains one trial after another; a new one takes over where it has died, or where a run went down otherwise
than by an error of its user's. No process imports the program that asked for the search.
"""

import json
import os
import queue
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import shardrec
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.tuning.failed_line import failed_line

LAST_SECONDS = 5.0  # that processes have to end by themselves


class Workplaces:
    """Workplaces train so many trials at a time; a future is None, or the line that its trial failed with.

    jobs: 0 trains in this process, in a thread of it.
    """

    def __init__(self, jobs: int, group: Path) -> None:
        self._jobs, self._group = jobs, group
        self._threads = ThreadPoolExecutor(max(1, jobs), thread_name_prefix="trial")
        self._free: queue.SimpleQueue[_TrialProcess | None] = queue.SimpleQueue()
        self._all: list[_TrialProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.end(at_once=error is not None)
        self._threads.shutdown(cancel_futures=True)

    def train(self, config: RunConfig) -> "Future[str | None]":
        """Begins to train a trial."""
        return self._threads.submit(self._here if self._jobs == 0 else self._elsewhere, config)

    def _here(self, config: RunConfig) -> str | None:
        from shardrec.trainer.launch.freed_memory import give_back_freed_memory
        from shardrec.trainer.reports.after_training import reported
        from shardrec.trainer.training.train_run import train_run

        try:
            with reported(config) as report:
                train_run(config, quiet=True, embedded=True, group=self._group, at_end=report)
        except Exception as error:
            return failed_line(error, config.run_folder)
        finally:
            give_back_freed_memory()
        return None

    def _elsewhere(self, config: RunConfig) -> str | None:
        try:
            process = self._free.get_nowait()
        except queue.Empty:
            process = None
        if process is None or not process.lives:
            process = _TrialProcess()
            self._all.append(process)
        failure = process.train(config, self._group)
        self._free.put(process)
        return failure


class _TrialProcess:
    """A trial process as its parent has it."""

    def __init__(self) -> None:
        home = str(Path(shardrec.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        replies, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "shardrec.trainer.tuning.trial_process", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                pass_fds=[theirs],
                env=os.environ | {"PYTHONPATH": path},
            )
        finally:
            os.close(theirs)
        self._replies = os.fdopen(replies)

    @property
    def lives(self) -> bool:
        """Says whether it can train another trial."""
        return self._process.poll() is None

    def train(self, config: RunConfig, group: Path) -> str | None:
        """Trains a trial, and waits for it; returns None, or the line that it failed with."""
        job = {"config": config.model_dump(mode="json", by_alias=True), "group": str(group)}
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: so is its reply
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        reply = self._replies.readline()
        if not reply.endswith("\n"):
            self._process.wait()
            return failed_line(ChildProcessError("its process died"), config.run_folder)
        failure: str | None = json.loads(reply)
        if failure is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)  # one that is broken ends
        return failure

    def end(self, *, at_once: bool) -> None:
        """Ends it; where it is not to train on, at once."""
        assert self._process.stdin is not None
        if at_once:
            self._process.terminate()
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()
