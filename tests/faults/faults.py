"""Faults are what befalls a run, at a moment that is drawn: as it starts, in a step, a checkpoint, an evaluation."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from shardrec.trainer.run_folder.stop_request import ask_to_end
from tests.faults.cluster import actors
from tests.faults.launched import PATIENCE, Launched

Fault = Callable[[Launched, random.Random], None]
"""Befalls a run that is there."""


def signalled(number: signal.Signals) -> Fault:
    """A signal to the process that the user started, which ends."""

    def befall(run: Launched, draw: random.Random) -> None:
        psutil.Process(run.process.pid).send_signal(number)
        run.process.join(PATIENCE)

    return befall


def signalled_to_a_worker(number: signal.Signals) -> Fault:
    """A signal to one of the processes that train."""

    def befall(run: Launched, draw: random.Random) -> None:
        draw.choice(run.workers()).send_signal(number)

    return befall


def paused(run: Launched, draw: random.Random) -> None:
    """A worker that stands still for a while, and goes on."""
    worker = draw.choice(run.workers())
    worker.suspend()
    time.sleep(draw.uniform(0.1, 1.5))
    worker.resume()


def frozen(run: Launched, draw: random.Random) -> None:
    """A worker that stands still for good."""
    draw.choice(run.workers()).suspend()


def full_disk(run: Launched, draw: random.Random) -> None:
    """Files cannot become larger than some bytes, which may lie within any file of a checkpoint."""
    most = draw.randrange(100, 9_000)
    for worker in run.workers():
        worker.rlimit(resource.RLIMIT_FSIZE, (most, most))


def cut_data(run: Launched, draw: random.Random) -> None:
    """A file of training rows is cut short, and whole again when the run has ended."""
    hidden(run, draw, lambda file: os.truncate(file, draw.randrange(file.stat().st_size)))


def lost_data(run: Launched, draw: random.Random) -> None:
    """A file of training rows is not there for a while; a run without a checkpoint would begin anew with the others."""
    run.until(lambda: bool(run.folder.steps()))
    hidden(run, draw, os.unlink)


def hidden(run: Launched, draw: random.Random, hide: Callable[[Path], None]) -> None:
    """Does something to a file of training rows, and puts it back once the run is over, or up to a second later."""
    run.until(run.folder.config_file.exists)  # once the run has seen which files there are
    file = draw.choice(sorted((run.scratch / "data/train").iterdir()))
    content, status = file.read_bytes(), file.stat()
    hide(file)
    run.process.join(draw.uniform(0.2, 1.0))
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def controller_killed(run: Launched, draw: random.Random) -> None:
    """The actor of Ray's that watches the workers is gone."""
    actors("TrainController")[0].kill()


def asked_to_end(run: Launched, draw: random.Random) -> None:
    """Somebody asks for an end in the run folder."""
    ask_to_end(run.folder.path)
    run.process.join(PATIENCE)


KILLED = signalled(signal.SIGKILL)
ALONE: Mapping[str, Fault] = {
    "killed": KILLED,
    "SIGTERM": signalled(signal.SIGTERM),
    "Ctrl-C": signalled(signal.SIGINT),
    "paused": paused,
    "full disk": full_disk,
    "data cut short": cut_data,
    "data vanished": lost_data,
}
"""What befalls a run of one process."""

RANKS: Mapping[str, Fault] = {
    "launcher killed": KILLED,
    "worker killed": signalled_to_a_worker(signal.SIGKILL),
    "SIGTERM to the launcher": signalled(signal.SIGTERM),
    "SIGTERM to a worker": signalled_to_a_worker(signal.SIGTERM),
    "worker paused": paused,
    "worker frozen": frozen,
    "full disk": full_disk,
    "data cut short": cut_data,
    "data vanished": lost_data,
}
"""What befalls a run of several processes."""


ON_RAY: Mapping[str, Fault] = {name: fault for name, fault in RANKS.items() if name != "SIGTERM to a worker"} | {
    "controller killed": controller_killed,
    "asked to end": asked_to_end,
}
"""What befalls a run on Ray."""

# ------------------------------------------------------------ moments

Moment = Callable[[Launched, random.Random, range], bool]
"""Waits for a moment of a run within or after some of its steps; says whether it came before the run was over."""


def starting(run: Launched, draw: random.Random, steps: range) -> bool:
    """While it starts: at any time in the first second of its command, or of what follows a fault."""
    run.until(run.log.exists)
    until = time.monotonic() + draw.uniform(0.05, 1.0)
    return run.until(lambda: time.monotonic() >= until)


def training(run: Launched, draw: random.Random, steps: range) -> bool:
    """In or after a step, any of all."""
    step = draw.choice(steps)
    return run.until(lambda: run.progress()[1] >= step)


def saving(run: Launched, draw: random.Random, steps: range) -> bool:
    """While a checkpoint is written, or just after."""
    after = draw.choice(steps) - run.every
    begun = run.until(lambda: run.progress()[1] >= after and run.is_saving())
    moment = time.monotonic() + draw.uniform(0.0, 0.01)
    while time.monotonic() < moment:
        pass
    return begun


def evaluating(run: Launched, draw: random.Random, steps: range) -> bool:
    """While rows are scored, between steps or at the end."""
    after = draw.choice(steps) - run.every
    return run.until(lambda: run.progress()[0].startswith("evaluating") and run.progress()[1] >= after)


MOMENTS: Mapping[str, Moment] = {
    "start": starting,
    "step": training,
    "checkpoint": saving,
    "evaluation": evaluating,
}
