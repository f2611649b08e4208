"""A run whose cluster changes under it: more workers as machines come, fewer as they go, and every row counted once."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.cores import cores, worker_count
from shardrec.trainer.session.blueprint import Blueprint
from tests.faults.elastic import EVERY, SMOOTH, ElasticRun, Machines, befallen
from tests.trainer.small_run import run_file, write_data


@pytest.fixture
def machines() -> Iterator[Machines]:
    machines = Machines(2)
    yield machines
    machines.shut_down()


@pytest.mark.long
def test_a_run_has_as_many_workers_as_there_are_machines(machines: Machines, tmp_path: Path) -> None:
    """It gets over a machine that is lost, grows with its cluster, and leaves a machine that is about to go."""
    file = run_file(tmp_path / "run.yaml", write_data(tmp_path / "data"), model=SMOOTH)
    run = ElasticRun(file, tmp_path / "run", machines.address)
    run.until(lambda: run.has_saved(1))
    for event in ("machine lost", "machine comes", "machine about to go"):
        befallen(run, machines, event, random.Random(0))
    said = run.ended()

    workers, first_steps, again = zip(*run.groups(), strict=True)
    assert workers == (2, 1, 2, 1)
    assert again[1] <= EVERY, "a lost machine costs the steps since the last checkpoint"
    assert (again[0], *again[2:]) == (0, 0, 0), "who leaves in order has saved all that was done"
    assert f"goes on from step {first_steps[1]} with 1 worker(s) instead of 2" in said
    assert f"goes on from step {first_steps[2]} with 2 worker(s) instead of 1\n" in said
    run.assert_as_undisturbed(tmp_path / "undisturbed")


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
