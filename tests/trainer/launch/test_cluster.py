"""A run on a Ray that is not its own, as clusters are: it waits for room, and its workers run in other folders."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.local_ray import TOKEN_VARIABLES, local_ray
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.capacity import can_grow, names_launched_nodes
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.predict import predict_rows
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.trainer import train_worker
from tests.trainer.small_run import run_file, write_data

JOINING = """
import sys, ray
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import LaunchConfig
from shardrec.trainer.launch.running_ray import running_ray
try:
    with running_ray(LaunchConfig(address=sys.argv[1]), 1):
        print(f"{ray.cluster_resources()['CPU']:g} CPUs")
except UserError as error:
    print(error)
"""
ON_RAY = ("launch.backend=ray", "launch.workers=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and `run.yaml`, whose run is trained."""
    folder = tmp_path_factory.mktemp("cluster")
    train_run(load(run_file(folder / "run.yaml", write_data(folder / "data", rows=240))), quiet=True)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores."""
    with local_ray(2):
        yield


def joined(**token: str) -> str:
    """What a command prints that joins the cluster from another process, with these variables of authentication."""
    environment = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES} | token
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}  # or it waits long
    command = [sys.executable, "-c", JOINING, ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_clusters_own_token_is_what_joins_it(cluster: None) -> None:
    own = {name: value for name in TOKEN_VARIABLES if (value := os.environ.get(name))}
    assert joined(**own) == "2 CPUs\n"
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        assert joined(**token).endswith("; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here\n")


def test_more_workers_than_there_is_room_for_wait_for_a_while(cluster: None, folder: Path, tmp_path: Path) -> None:
    config = load(folder / "run.yaml", (f"run={tmp_path}/run", "launch.workers=3", "launch.start_timeout=1"))
    made = RunFolder.create(config, resume=False)
    with pytest.raises(UserError) as error:
        launch(train_worker, config, made)
    asked = "3 worker(s) ask for a CPU each, 2 of 2 are free, 1 missing"
    assert str(error.value).startswith(f"launch.workers: {asked} after 1 s; ") and not can_grow()
    said = json.loads((made.logs / "progress.json").read_text())
    assert said["phase"] == f"waiting for room on the cluster: {asked}"
    assert str(made.failure()) == str(error.value)  # so that nothing is left of a run that never began


@pytest.mark.parametrize(
    ("kind", "grows"),
    [("node_ffff", False), ("ray.head.default", True), (None, False)],
    ids=["by hand", "auto", "none"],
)
def test_an_autoscaler_is_known_by_its_report(kind: str | None, grows: bool) -> None:
    """As Ray 2.58's first autoscaler writes it; a head alone is active only after a while."""
    report = {"active_nodes": {}, "pending_nodes": [], "node_type_mapping": {"ffff": kind} if kind else None}
    assert names_launched_nodes(json.dumps({"autoscaler_report": report}).encode()) is grows
    assert not names_launched_nodes(b"{}") and not names_launched_nodes(b"not JSON")


def test_paths_are_those_of_the_folder_where_the_command_runs(
    cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = predict_rows(Path("run"), ("data/test/*.parquet",), Path("scores"), overrides=ON_RAY, quiet=True)
    scores, rows = pq.read_table(folder / "scores"), pq.read_table(folder / "data/test")
    assert result and scores.num_rows == result["rows"] == rows.num_rows
    assert ray.is_initialized()  # it was not the run's
