"""What a run on Ray starts before its first step, and what of Ray Train is replaced for that."""

import inspect

import pytest
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import LaunchConfig
from shardrec.trainer.launch import early_start
from shardrec.trainer.launch.early_start import started_early
from shardrec.trainer.launch.ray_train import UNUSED_LOCALLY, LocalScalingPolicy, Trainer

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
    with started_early([LaunchConfig.model_validate(launch) for launch in launches], "module", lambda: None):
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
