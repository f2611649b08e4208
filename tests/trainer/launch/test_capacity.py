"""A run that Ray has no room for says so, and ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.local_ray import local_ray
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.capacity import can_grow
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import train_worker
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capacity")
    return run_file(folder / "run.yaml", write_data(folder / "data", rows=240))


@pytest.fixture
def cluster() -> Iterator[None]:
    """A Ray with two cores that is not a run's own, as clusters are."""
    with local_ray(2):
        yield


def refusal(run: Path, *overrides: str) -> tuple[str, RunFolder]:
    config = load(run, overrides)
    folder = RunFolder.create(config, resume=False)
    with pytest.raises(UserError) as error:
        launch(train_worker, config, folder)
    assert "\n" not in str(error.value)
    assert str(folder.failure()) == str(error.value)  # so that nothing is left of a run that never began
    return str(error.value), folder


def test_more_workers_than_a_cluster_has_room_for_wait_for_a_while(cluster: None, run: Path, tmp_path: Path) -> None:
    assert not can_grow()
    line, folder = refusal(run, f"run={tmp_path}/run", "launch.workers=3", "launch.start_timeout=1")
    asked = "3 worker(s) ask for a CPU each, 2 of 2 are free, 1 missing"
    assert line.startswith(f"launch.workers: {asked} after 1 s; ")
    said = json.loads((folder.logs / "progress.json").read_text())
    assert said["phase"] == f"waiting for room on the cluster: {asked}"


def test_more_workers_than_this_machine_has_gpus_are_refused_at_once(run: Path, tmp_path: Path) -> None:
    line, _ = refusal(run, f"run={tmp_path}/run", "launch.workers=100", "launch.device=cuda")
    assert line.startswith("launch.workers: 100 worker(s) ask for a GPU each, ")
    assert "missing on this machine; ask for fewer, or set launch.device to cpu" in line
