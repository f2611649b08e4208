"""The manifest of docs/clusters.md: well formed, of one piece, and with a command that can be given."""

import re
import shlex
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.docs.commands import arguments, parse

PAGE = (ROOT / "docs/clusters.md").read_text()


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(re.findall(r"^```yaml\n# rayjob.yaml\n(.*?)^```$", PAGE, re.M | re.S)[0])
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    return found["spec"]


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_entrypoint_is_a_command_for_all_workers(job: dict[str, Any]) -> None:
    words = shlex.split(job["entrypoint"])
    command = arguments(words)
    assert command is not None
    parse(command)
    workers = sum(group["replicas"] for group in job["rayClusterSpec"]["workerGroupSpecs"])
    assert f"launch.workers={workers}" in words and "launch.address=auto" in words
    run = next(word for word in words if word.startswith("run="))
    assert all(f"{mounted}/" in run for group in groups(job) for mounted in [shared(group)])


def shared(group: dict[str, Any]) -> str:
    """Where a group's machines have the storage that all share."""
    (container,) = group["template"]["spec"]["containers"]
    return next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared")


def test_what_is_mounted_is_there(job: dict[str, Any]) -> None:
    for group in groups(job):
        spec = group["template"]["spec"]
        mounts = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        assert all(type(value) is str for value in group["rayStartParams"].values())  # as Kubernetes wants them


def test_the_cluster_waits_for_a_stopped_job(job: dict[str, Any]) -> None:
    """The head does, which starts the job."""
    (container,) = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert int({each["name"]: each["value"] for each in container["env"]}["RAY_JOB_STOP_WAIT_TIME_S"]) > 3
