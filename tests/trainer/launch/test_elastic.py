"""A run whose cluster changes under it: more workers as machines come, fewer as they go, and every row counted once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from shardrec.data_pipeline.errors import ResumableError, UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.cores import cores, worker_count
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.stop_request import ask_to_end
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.training.train_run import train_run
from tests.trainer.recorded import whole_tables
from tests.trainer.small_run import run_file, write_data
from tests.trainer.started import started

STORE = 80 << 20  # bytes of a machine's object store
EVERY = 40
SETTINGS = ("data.global_batch_size=64", f"trainer.checkpoint.every_steps={EVERY}", "trainer.epochs=100000")
ELASTIC = ("launch.workers=[1,3]", "launch.resize_interval=1", "launch.start_timeout=45", "launch.timeout=20")
WITHOUT_DRAWS = {"mlp": {"hidden": [16, 8]}}  # dropout draws others for another number of workers


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two machines of one core each, which are missed soon after they are lost."""
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    machine = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    yield cluster
    cluster.shutdown()


class Launched:
    """A training in a process of its own, on a cluster."""

    def __init__(self, run_file: Path, folder: Path, address: str) -> None:
        self.folder, self._log = RunFolder(folder), folder.with_suffix(".out")
        overrides = (f"run={folder}", f"launch.address={address}", *SETTINGS, *ELASTIC)
        words = [word for override in overrides for word in ("--set", override)]
        self._process = started("train", run_file, *words, log=self._log)

    def groups(self) -> list[tuple[int, int, int]]:
        """(workers, first step, steps done again) of all groups so far."""
        if not self.folder.metrics_file.exists():
            return []
        starts = [record for record in self.folder.records() if record["kind"] == "start"]
        return [(start["world_size"], start["step"], start["steps_again"]) for start in starts]

    def until(self, reached: Callable[[], bool]) -> None:
        """Waits for something to be so of the run while it lasts."""
        while not reached():
            assert self._process.is_alive(), self._log.read_text()
            time.sleep(0.1)

    def has_saved(self, groups: int, steps: int = 1) -> bool:
        """Whether so many groups of workers have been there, and the last has come so far as to save its steps."""
        there = self.groups()
        return len(there) == groups and max(self.folder.steps(), default=0) >= there[-1][1] + steps

    def ended(self) -> str:
        """Tells it to end; returns what it said."""
        ask_to_end(self.folder.path)
        self._process.join()
        said = self._log.read_text()
        assert self._process.exitcode == ResumableError.exit_status, said
        return said


def test_a_run_has_as_many_workers_as_there_are_machines(cluster: Cluster, tmp_path: Path) -> None:
    """It grows with its cluster, leaves a machine that is about to go, and gets over one that is lost."""
    file = run_file(tmp_path / "run.yaml", write_data(tmp_path / "data"), model=WITHOUT_DRAWS)
    (second,) = cluster.worker_nodes
    run = Launched(file, tmp_path / "run", cluster.address)
    run.until(lambda: run.has_saved(1))
    third = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    run.until(lambda: run.has_saved(2))
    drain(cluster, third.node_id)
    run.until(lambda: run.has_saved(3))
    cluster.remove_node(second, allow_graceful=False)
    run.until(lambda: run.has_saved(4))
    said = run.ended()

    workers, first_steps, again = zip(*run.groups(), strict=True)
    assert workers == (2, 3, 2, 1)
    assert again[:3] == (0, 0, 0), "who leaves in order has saved all that was done"
    assert first_steps[3] % EVERY == 0 and again[3] <= EVERY
    assert f"goes on from step {first_steps[1]} with 3 worker(s) instead of 2\n" in said
    assert f"goes on from step {first_steps[3]} with 1 worker(s) instead of 2" in said
    assert_as_undisturbed(file, run.folder, tmp_path / "undisturbed")


def assert_as_undisturbed(file: Path, folder: RunFolder, beside: Path) -> None:
    """Goes on for a step with one worker, and compares the run with one that had no other all the time."""
    last = f"trainer.max_steps={folder.steps()[-1] + 1}"
    summaries = [
        train_run(load(file, (f"run={path}", *SETTINGS, last)), resume=resume, quiet=True)
        for path, resume in ((folder.path, True), (beside, False))
    ]
    assert summaries[0] and summaries[1] and summaries[0]["rows"] == summaries[1]["rows"]
    found, expected = (whole_tables(f.checkpoint(f.steps()[-1])) for f in (folder, RunFolder(beside)))
    for name, parts in expected.items():
        torch.testing.assert_close(found[name], parts, rtol=1e-3, atol=1e-4)


def drain(cluster: Cluster, node: str) -> None:
    """Gives notice that a machine is about to be taken away, in ten minutes."""
    until = int((time.time() + 600) * 1000)
    accepted, why_not = GcsClient(address=cluster.address).drain_node(
        node, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "taken away", until
    )
    assert accepted, why_not


def test_says_what_fewest_and_most_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine alone as many as it has cores, within both."""
    file = run_file(tmp_path / "run.yaml", write_data(tmp_path / "data", rows=64))
    counts = {w: load(file, (f"launch.workers={w}", "launch.device=cpu")).launch for w in ("[1,9999]", "[9,12]", "3")}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [worker_count(launch) for launch in counts.values()] == [cores(), max(9, min(12, cores())), 3]
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    assert [worker_count(launch) for launch in counts.values()] == [9999, 12, 3]
    for wrong in ("[2]", "[3,2]", "[0,2]", "[true,2]", "[1,99999999]"):
        with pytest.raises(UserError, match=r"launch.workers.*the fewest and the most, say"):
            load(file, (f"launch.workers={wrong}",))


def test_tables_have_to_fit_the_fewest_workers(tmp_path: Path) -> None:
    """28.2 KiB of tables fit two workers of 16 KiB each, not one."""
    file = run_file(tmp_path / "run.yaml", write_data(tmp_path / "data", rows=64))
    Blueprint(load(file, ("launch.workers=2", "launch.memory=32KiB"))).plan()
    with pytest.raises(UserError, match=r"with 1 worker\(s\), the fewest of launch.workers: not enough memory"):
        Blueprint(load(file, ("launch.workers=[1,2]", "launch.memory=32KiB"))).plan()
