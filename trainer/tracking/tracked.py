"""A tracked training has a follower for each tracker that its run file names, on the machine of its launcher."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import shardrec
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.run_folder.worker_lines import WorkerLines, say
from shardrec.trainer.tracking.job import Ending, Job

END_SECONDS = 30.0
"""Time that trackers have, once a run is over, for what is left to be sent."""


@contextmanager
def tracked(config: RunConfig, folder: RunFolder, group: Path | None = None) -> Iterator[None]:
    """Has followers bring what is recorded in `folder` to the run's trackers, while this lasts.

    group: the folder of the runs that this one belongs to: of a comparison, a run of stages, a search. Raises nothing
    of its own: whatever becomes of a tracker is one line.
    """
    settings = config.trainer.tracking
    started = {name: _started(config, folder, name, group) for name in (settings.trackers if settings else ())}
    ending: Ending = "failed"
    try:
        yield
        ending = "finished"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        _end({name: process for name, process in started.items() if process is not None}, ending, folder)


def _started(config: RunConfig, folder: RunFolder, tracker: str, group: Path | None) -> "subprocess.Popen[str] | None":
    assert config.trainer.tracking is not None
    settings, run = config.trainer.tracking.trackers[tracker], folder.path.absolute()
    inside = run.relative_to(group.absolute()).as_posix() if group and run.is_relative_to(group.absolute()) else ""
    job = Job(
        tracker=tracker,
        folder=str(run),
        logs=str(folder.logs),
        name=settings["name"] or inside or run.name,
        group=group.absolute().name if group else None,
        settings=settings,
        config=config.model_dump(mode="json", by_alias=True),
        directory=os.getcwd(),
    )
    home = str(Path(shardrec.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    try:
        with (folder.logs / f"tracking-{tracker}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "shardrec.trainer.tracking.follower"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,  # Ctrl-C is for the training, which then says how it ended
            )
        assert process.stdin is not None
        process.stdin.write(job.dump())
        process.stdin.flush()
    except OSError as error:
        say(folder.logs, f"tracking: {tracker}: {error.strerror}; training goes on, and metrics.jsonl has all of it")
        return None
    return process


def _end(followers: Mapping[str, "subprocess.Popen[str]"], ending: Ending, folder: RunFolder) -> None:
    """Tells followers how the run ended, and gives them time; those that are not done by then are ended."""
    if not followers:
        return
    lines = WorkerLines(folder.logs, messages())
    said = lines.passed_over()
    for process in followers.values():
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(ending + "\n")
            process.stdin.close()
    until = time.monotonic() + END_SECONDS
    for name, process in followers.items():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(process)
            if not any(line.startswith(f"tracking: {name}:") for line in said):
                what = f"not all was sent within {END_SECONDS:.0f} s of the run's end; metrics.jsonl has all of it"
                say(folder.logs, f"tracking: {name}: {what}")
    lines.show()


def _kill(process: "subprocess.Popen[str]") -> None:
    """Ends a follower and what it started."""
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()
