"""A follower is a process that brings one run's records to one tracker, for as long as the run lasts.

It is told its job, and later how the run ended, by lines on its standard input; where that closes, or its parent is
gone, the run was killed. What it could not send it tries again: metrics.jsonl is the queue. Whatever a tracker does
costs the run one line.
"""

import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from shardrec.data_pipeline.errors import cut_at_a_word
from shardrec.trainer.run_folder.worker_lines import say
from shardrec.trainer.tracking.job import ENDINGS, Ending, Job
from shardrec.trainer.tracking.kept import Kept
from shardrec.trainer.tracking.records import Record, Records
from shardrec.trainer.tracking.tracker import FILES, REPORT, Tracker

POLL_SECONDS = 0.5
RETRY_SECONDS = 30.0
_SHOWN = 150  # characters of a tracker's error

Ended = Callable[[float], Ending | None]
"""Waits so many seconds at most for the run to end, and says how it did; None while it goes on."""


class Follower:
    """A follower knows how far its tracker is behind the run."""

    def __init__(self, job: Job, tracker: Tracker) -> None:
        self._job, self._tracker = job, tracker
        self._file = job.place / f"{job.tracker}.json"
        self._kept = Kept.read(self._file)
        self._records = Records(Path(job.folder) / "metrics.jsonl")
        self._waiting: list[Record] = []
        self._is_open, self._said = False, False

    def follow(self, ended: Ended) -> bool:
        """Sends until the run has ended, and then what is left; returns whether all of it was sent."""
        next_try, ending = 0.0, ended(0)
        while ending is None:
            if time.monotonic() >= next_try and not self._tried(self._send):
                next_try = time.monotonic() + RETRY_SECONDS
            ending = ended(POLL_SECONDS)
        if self._said and not self._is_open:
            return False  # who has not answered so far is not waited for
        last = ending
        return self._tried(lambda: self._close(last))

    def _tried(self, action: Callable[[], None]) -> bool:
        """Says whether an action came to its end; the first that does not costs a line."""
        try:
            action()
            return True
        except Exception as error:
            text = cut_at_a_word(" ".join(str(error).split()) or type(error).__name__, _SHOWN)
            line = f"tracking: {self._job.tracker}: {text}; training goes on, and metrics.jsonl has all of it"
            if self._said:
                print(line, flush=True)
            else:
                self._said = True
                say(Path(self._job.logs), line)
            return False

    def _send(self) -> None:
        for record in self._records.new():
            if record.step > self._kept.sent.get(record.kind, -1):
                self._waiting.append(record)
        if not self._is_open:
            self._kept.run = self._tracker.open(self._job, self._kept.run)
            self._is_open = True
            self._kept.write(self._file)
        if self._waiting:
            self._tracker.send(self._waiting)
            for record in self._waiting:
                self._kept.sent[record.kind] = max(record.step, self._kept.sent.get(record.kind, -1))
            self._waiting.clear()
            self._kept.write(self._file)

    def _close(self, ending: Ending) -> None:
        self._send()
        folder = Path(self._job.folder)
        files = [folder / name for name in FILES if (folder / name).is_file()]
        if ending == "finished" and _is_newer(folder / REPORT, folder / "summary.json"):
            files.append(folder / REPORT)
        self._tracker.close(ending, _summary(folder) if ending == "finished" else {}, files)


def _summary(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _is_newer(file: Path, other: Path) -> bool:
    """Says whether a file is there and was not written before another one."""
    return file.is_file() and other.is_file() and file.stat().st_mtime_ns >= other.stat().st_mtime_ns


def tracker_called(name: str) -> Tracker:
    """Returns a tracker that has not begun."""
    if name == "mlflow":
        from shardrec.trainer.tracking.mlflow_run import MlflowRun

        return MlflowRun()
    from shardrec.trainer.tracking.wandb_run import WandbRun

    return WandbRun()


def main() -> int:
    """Follows the run that standard input names; returns 0 where all of it was sent."""
    parent = os.getppid()
    job = Job.parse(sys.stdin.readline())
    os.chdir(job.directory)

    def ended(seconds: float) -> Ending | None:
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if readable:
            word = sys.stdin.readline().strip()
            return cast(Ending, word) if word in ENDINGS else "stopped"
        return None if os.getppid() == parent else "stopped"

    return 0 if Follower(job, tracker_called(job.tracker)).follow(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
