"""Runs on a cluster whose machines come and go, each compared with one that had one worker all the time."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from shardrec.data_pipeline.errors import ResumableError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.stop_request import ask_to_end
from shardrec.trainer.training.train_run import train_run
from tests.faults.cluster import STORE, actors, cluster_of
from tests.trainer.recorded import whole_tables
from tests.trainer.started import started

MOST = 3  # machines, of one core each
EVERY = 40
SETTINGS = ("data.global_batch_size=64", f"trainer.checkpoint.every_steps={EVERY}", "trainer.epochs=100000")
ELASTIC = (f"launch.workers=[1,{MOST}]", "launch.resize_interval=1", "launch.start_timeout=60", "launch.timeout=20")
SMOOTH = {"mlp": {"hidden": [16, 8], "activation": "tanh"}}
"""A tower that draws nothing, as dropout does for each worker, and whose gradients have no jumps, as ReLU's have: in
hundreds of steps one input is 0 but for rounding, and falls on either side of it."""


class Machines:
    """Machines are those of a cluster, beside the first one, which stays."""

    def __init__(self, count: int) -> None:
        self._cluster = cluster_of([1] * count)
        self._going: list[object] = []
        self.address = self._cluster.address

    @property
    def count(self) -> int:
        """Returns how many there are that are not about to go, with the first."""
        return 1 + len(self._cluster.worker_nodes) - len(self._going)

    def come(self) -> None:
        """Adds one."""
        self._cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def lose(self, draw: random.Random) -> None:
        """Takes one away without a word."""
        self._cluster.remove_node(draw.choice(self._there()), allow_graceful=False)

    def give_notice(self, draw: random.Random) -> None:
        """Says of one that it is about to be taken away, in ten minutes."""
        node = draw.choice(self._there())
        accepted, why_not = GcsClient(address=self.address).drain_node(
            node.node_id,
            DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
            "taken away",
            int((time.time() + 600) * 1000),
        )
        assert accepted, why_not
        self._going.append(node)

    def restore(self, count: int) -> None:
        """Takes away those that are about to go, and adds or takes until there are so many."""
        for node in self._going:
            self._cluster.remove_node(node)
        self._going.clear()
        while self.count < count:
            self.come()
        while self.count > count:
            self._cluster.remove_node(self._there()[0])

    def shut_down(self) -> None:
        """Ends the cluster."""
        self._cluster.shutdown()

    def _there(self) -> list:  # type: ignore[type-arg]  # of nodes, of which Ray has no public type
        return sorted((n for n in self._cluster.worker_nodes if n not in self._going), key=lambda n: n.node_id)


class ElasticRun:
    """An elastic run is a training in a process of its own, on all machines that there are."""

    def __init__(self, run_file: Path, folder: Path, address: str) -> None:
        self.folder, self._file, self._log = RunFolder(folder), run_file, folder.with_suffix(".out")
        overrides = (f"run={folder}", f"launch.address={address}", *SETTINGS, *ELASTIC)
        words = [word for override in overrides for word in ("--set", override)]
        self.process = started("train", run_file, *words, log=self._log)

    def groups(self) -> list[tuple[int, int, int]]:
        """Returns (workers, first step, steps done again) of all groups so far."""
        if not self.folder.metrics_file.exists():
            return []
        starts = [record for record in self.folder.records() if record["kind"] == "start"]
        return [(start["world_size"], start["step"], start["steps_again"]) for start in starts]

    def until(self, reached: Callable[[], bool], patience: float = 180.0) -> None:
        """Waits for something to be so of the run while it lasts."""
        began = time.monotonic()
        while not reached():
            assert self.process.is_alive(), self._log.read_text()
            assert time.monotonic() - began < patience, f"{self.groups()} after {patience:g} s"
            time.sleep(0.1)

    def has_saved(self, groups: int) -> bool:
        """Returns whether so many groups of workers have been there, and the last has saved steps of its own."""
        there = self.groups()
        return len(there) >= groups and max(self.folder.steps(), default=0) > there[-1][1]

    def ended(self) -> str:
        """Tells it to end; returns what it said."""
        ask_to_end(self.folder.path)
        self.process.join()
        said = self._log.read_text()
        assert self.process.exitcode == ResumableError.exit_status, said
        return said

    def assert_as_undisturbed(self, beside: Path) -> None:
        """Goes on for a step with one worker, and compares the run with one that had no other all the time."""
        last = f"trainer.max_steps={self.folder.steps()[-1] + 1}"
        summaries = [
            train_run(load(self._file, (f"run={path}", *SETTINGS, last)), resume=resume, quiet=True)
            for path, resume in ((self.folder.path, True), (beside, False))
        ]
        assert summaries[0] and summaries[1] and summaries[0]["rows"] == summaries[1]["rows"]
        found, expected = (whole_tables(f.checkpoint(f.steps()[-1])) for f in (self.folder, RunFolder(beside)))
        for name, parts in expected.items():
            torch.testing.assert_close(found[name], parts, rtol=1e-3, atol=1e-4)


def lost(machines: Machines, draw: random.Random) -> None:
    """A machine is gone."""
    machines.lose(draw)


def going(machines: Machines, draw: random.Random) -> None:
    """A machine is about to go."""
    machines.give_notice(draw)


def coming(machines: Machines, draw: random.Random) -> None:
    """There is a machine more."""
    machines.come()


def worker_lost(machines: Machines, draw: random.Random) -> None:
    """A worker is gone, whose machine is there."""
    draw.choice(actors("RayTrainWorker")).kill()


EVENTS = {"machine lost": lost, "machine about to go": going, "machine comes": coming, "worker killed": worker_lost}
"""What befalls a cluster."""

CHANGES = {"machine lost": -1, "machine about to go": -1, "machine comes": 1}
"""By how much an event changes the number of machines."""


@dataclass(frozen=True)
class Drawn:
    """A drawn course of events, each of which can befall as many machines as there are then."""

    machines: int
    events: tuple[str, ...]


def drawn(seed: int, count: int) -> Drawn:
    """Returns the course of a seed: so many events, and with how many machines it begins."""
    draw = random.Random(f"events {seed}")
    there = machines = draw.randint(1, MOST)
    events: list[str] = []
    for _ in range(count):
        possible = [event for event in EVENTS if 1 <= there + CHANGES.get(event, 0) <= MOST]
        events.append(draw.choice(possible))
        there += CHANGES.get(events[-1], 0)
    return Drawn(machines, tuple(events))


def befallen(run: ElasticRun, machines: Machines, event: str, draw: random.Random) -> float:
    """Lets an event befall a run between two of its checkpoints; returns the seconds to the next one after it."""
    groups = len(run.groups())
    run.until(lambda: run.has_saved(groups))
    time.sleep(draw.uniform(0.0, 1.0))
    began = time.monotonic()
    EVENTS[event](machines, draw)
    run.until(lambda: run.has_saved(groups + 1))
    assert run.groups()[-1][0] == machines.count, (run.groups(), machines.count)
    return time.monotonic() - began
