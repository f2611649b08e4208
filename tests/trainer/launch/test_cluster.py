"""A run on a Ray that is not its own, as clusters are: it waits for room, and its workers run in other folders."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.local_ray import TOKEN_VARIABLES, local_ray
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.capacity import can_grow, names_launched_nodes, room
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import failure_left
from shardrec.trainer.scoring.predict import predict_rows
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.train_worker import train_worker
from tests.trainer.small_run import run_file, write_data

JOINING = """
import sys, ray
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.launch import LaunchConfig
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
    """A Ray of one machine with two cores and one `fast_disk`."""
    with local_ray(2, resources={"fast_disk": 1}):
        yield


def joined(**token: str) -> str:
    """What a command prints that joins the cluster from another process, with these variables of authentication."""
    environment = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES} | token
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}  # or it waits long
    command = [sys.executable, "-c", JOINING, ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_a_clusters_own_token_is_what_joins_it(cluster: None) -> None:
    own = {name: value for name in TOKEN_VARIABLES if (value := os.environ.get(name))}
    assert joined(**own) == "2 CPUs\n"
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        assert joined(**token).endswith("; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here\n")


@pytest.mark.long
def test_more_workers_than_there_is_room_for_wait_for_a_while(cluster: None, folder: Path, tmp_path: Path) -> None:
    config = load(folder / "run.yaml", (f"run={tmp_path}/run", "launch.workers=3", "launch.start_timeout=1"))
    made = RunFolder.create(config, resume=False)
    with pytest.raises(UserError) as error:
        launch(train_worker, config, made)
    asked = "3 worker(s) ask for a CPU each, 2 of 2 are free, 1 missing"
    assert str(error.value).startswith(f"launch.workers: {asked} after 1 s; ") and not can_grow()
    said = json.loads((made.logs / "progress.json").read_text())
    assert said["phase"] == f"waiting for room on the cluster: {asked}"
    assert str(failure_left(made)) == str(error.value)  # so that nothing is left of a run that never began


def report_resources(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """What Ray has set aside for each worker."""
    runtime = ray.get_runtime_context()
    return {"all": environment.gather((runtime.get_assigned_resources(), runtime.get_placement_group_id()))}


@pytest.mark.long
def test_workers_get_the_resources_that_the_run_file_names(cluster: None, folder: Path, tmp_path: Path) -> None:
    asked = "launch.resources={cpus: 0.5, custom: {fast_disk: 0.5}, strategy: STRICT_PACK}"
    config = load(folder / "run.yaml", (f"run={tmp_path}/run", *ON_RAY, asked))
    result = launch(report_resources, config, RunFolder.create(config, resume=False))
    found, groups = zip(*result["all"], strict=True)
    assert list(found) == [{"CPU": 0.5, "fast_disk": 0.5}]
    (group,) = {*groups}
    assert ray.util.placement_group_table()[group]["strategy"] == "STRICT_PACK"


@pytest.mark.long
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (
            "{custom: {fast_disk: 2}}",
            "1 worker(s) ask for 1 CPU and 2 fast_disk each, there is room for 0 now and 0 in all, 1 missing, as no "
            "machine of the cluster has enough fast_disk; ask for less, or start machines that have it",
        ),
        ("{cpus: 64, memory: 1KiB}", "1 worker(s) ask for 64 CPU and 1.0 KiB of memory each, there is room for 0 now"),
        ("{gpus: 1}", "gpus: 1, but device is cpu; leave gpus out, or set launch.device to cuda"),
    ],
)
def test_what_no_machine_has_is_refused_at_once(
    resources: str, said: str, cluster: None, folder: Path, tmp_path: Path
) -> None:
    config = load(folder / "run.yaml", (f"run={tmp_path}/run", *ON_RAY, f"launch.resources={resources}"))
    with pytest.raises(UserError) as error:
        launch(train_worker, config, RunFolder.create(config, resume=False))
    assert str(error.value).startswith(f"launch.resources: {said}")


def test_workers_go_where_there_is_room_for_all_that_one_asks_for() -> None:
    """Three machines: 5 workers of 2 CPU and a GPU have room on two of them, and no third CPU is of use elsewhere."""
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 7.0, "GPU": 4.0}, {"CPU": 64.0}]
    each = {"CPU": 2.0, "GPU": 1.0}
    assert [room(nodes, each, strategy) for strategy in ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")] == [
        5,
        5,
        3,
        2,
    ]
    assert room([{"CPU": 1.0}], {"CPU": 0.1}, "PACK") == 10
    assert room([], each, "STRICT_PACK") == 0


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


@pytest.mark.long
def test_paths_are_those_of_the_folder_where_the_command_runs(
    cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = predict_rows(Path("run"), ("data/test/*.parquet",), Path("scores"), overrides=ON_RAY, quiet=True)
    scores, rows = pq.read_table(folder / "scores"), pq.read_table(folder / "data/test")
    assert result and scores.num_rows == result["rows"] == rows.num_rows
    assert ray.is_initialized()  # it was not the run's
