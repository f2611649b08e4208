"""What a run on Ray starts before its first step, and what of Ray Train is replaced for that."""

import inspect
import os
from pathlib import Path

import pytest
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import state, worker_group
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.load import load
from shardrec.trainer.launch import early_start
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.early_start import started_early
from shardrec.trainer.launch.ray_train import UNUSED_LOCALLY, LocalScalingPolicy, Trainer
from shardrec.trainer.launch.running_ray import running_ray
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_worker import train_worker
from tests.trainer.small_run import run_file, write_data

LOCAL = [{"workers": 2}, {"workers": 1, "backend": "ray"}, {"workers": 3, "device": "cpu"}]
OTHERS = [
    {},
    {"workers": 1},
    {"workers": 2, "backend": "in_process"},
    {"backend": "ray"},
    {"workers": 2, "address": "x"},
]


def started(monkeypatch: pytest.MonkeyPatch, *launches: dict[str, object]) -> bool:
    """Returns whether something was started early."""
    begun: list[str] = []

    class Started:
        def __init__(self, launches: object, module: str, check: object) -> None:
            begun.append(module)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(early_start, "_started", Started)
    with started_early([LaunchConfig.model_validate(asked) for asked in launches], "module", lambda: None):
        return begun == ["module"]


@pytest.mark.parametrize("launch", LOCAL, ids=str)
def test_a_local_ray_starts_early(launch: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(monkeypatch, launch)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not started(monkeypatch, launch)


@pytest.mark.parametrize("launch", OTHERS, ids=str)
def test_nothing_else_does(launch: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not started(monkeypatch, launch)
    assert not started(monkeypatch, LOCAL[0], launch)


def test_a_ray_that_does_not_start_is_left_to_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **settings: (_ for _ in ()).throw(RuntimeError("no room")))
    with started_early([LaunchConfig(workers=2)], "no.such.module", lambda: None):
        pass


def test_what_is_replaced_of_ray_train_is_there() -> None:
    """A new release of Ray may do these things elsewhere: then `ray_train.py` has to follow."""
    assert vars(data_parallel_trainer).keys() >= UNUSED_LOCALLY
    assert "scaling_policy=create_scaling_policy(" in inspect.getsource(DataParallelTrainer.fit)
    assert "SynchronizationActor.options(" in inspect.getsource(worker_group)
    assert "_shutdown_sync_actor(" in inspect.getsource(state)
    for ours, theirs in ((Trainer, DataParallelTrainer), (LocalScalingPolicy, FixedScalingPolicy)):
        for name, method in vars(ours).items():
            if inspect.isfunction(method) and name != "__init__":
                assert callable(getattr(theirs, name, None)), name


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_is_said_before_anything_starts(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **settings: pytest.fail("Ray was started"))

    def check() -> None:
        raise UserError("model: no such thing")

    with pytest.raises(UserError, match="no such thing"), started_early([LaunchConfig(workers=workers)], "x", check):
        pytest.fail("went on")


def test_more_workers_than_this_machine_has_gpus_are_refused_at_once(tmp_path: Path) -> None:
    overrides = (f"run={tmp_path}/run", "launch.workers=100", "launch.device=cuda")
    config = load(run_file(tmp_path / "run.yaml", write_data(tmp_path / "data", rows=60)), overrides)
    before = dict(os.environ)
    with pytest.raises(UserError) as error:
        launch(train_worker, config, RunFolder.create(config, resume=False))
    assert str(error.value).startswith("launch.workers: 100 worker(s) ask for a GPU each, ")
    assert str(error.value).endswith(" missing on this machine; ask for fewer, or set launch.device to cpu")
    assert dict(os.environ) == before  # of a notebook, too


def test_a_ray_that_does_not_start_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    line = (
        r"a local Ray does not start: .*Not a directory.*; its servers' words are in .*/file/ray/session_latest/logs, "
    )
    with pytest.raises(UserError, match=line) as caught, running_ray(LaunchConfig(workers=2), 2):
        pass
    assert len(str(caught.value).splitlines()) == 1
