"""Sections on an emulated GPU, of which none may leave anything on the CPU; and what they make of what they find."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.gpu_check.sections import cuda_tests, dlrm, host_waits, losses
from shardrec.trainer.benchmarks.gpu_check.sections.task import Task
from tests.emulated_cuda.emulated import emulated_cuda


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulated_cuda():
        yield


def task(folder: Path, device: Any = "cuda") -> Task:
    return Task(device, True, folder, folder, 600.0)


def test_dlrm(emulated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    monkeypatch.setattr(dlrm, "profiled", lambda step, times, device, trace: step())  # of real kernels
    found: dict[str, Any] = {}
    dlrm.run(task(tmp_path), found.__setitem__)
    (step,) = found["small: step"]
    assert step["end_to_end_samples_per_second"] > 0 and step["precision"] == "bf16"
    assert found["small: samples_per_second of steps in a row"] > 0


def test_losses_that_are_apart_fail(emulated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "VARIANTS", {"rowwise_adagrad": {}})
    monkeypatch.setattr(losses, "LAST", -1.0)
    found: dict[str, Any] = {}
    with pytest.raises(UserError, match=r"rowwise_adagrad: losses are .* and .* apart in steps 1 and 4"):
        losses.run(task(tmp_path), found.__setitem__)
    (row,) = found["losses"]
    assert row["largest_apart"] < 1e-6 and row["first_loss"] != row["last_loss"]


def test_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two models; a third has a step that fails, which is told once the others were looked at."""
    files = host_waits.run_files_of_every_model(tmp_path / "models")
    some = {name: files[name] for name in ("deepfm", "dien", "drn")}
    monkeypatch.setattr(host_waits, "run_files_of_every_model", lambda folder: some)
    look_at = host_waits.look_at

    def looked_at(config: Any, *rest: Any) -> None:
        if config.model["name"] == "drn":
            raise RuntimeError("of no use")
        look_at(config, *rest)

    monkeypatch.setattr(host_waits, "look_at", looked_at)
    found: dict[str, Any] = {}
    with pytest.raises(UserError, match="drn: RuntimeError: of no use"):
        host_waits.run(task(tmp_path, "cpu"), found.__setitem__)
    deepfm, dien, drn = found["models"]
    assert dien["host_reads"] > deepfm["host_reads"] > 0 and "of no use" in drn["failed"]
    assert any("trainer/training/unread_losses.py" in row["place"] for row in found["places"])


class Waiting:
    """A trainer whose step waits as torch tells it: under `warn` by warnings, under `error` by raising."""

    def __init__(self) -> None:
        self.mode = "default"

    def train_step(self, batch: Any) -> None:
        for line in ("called a synchronizing CUDA operation", "something else"):
            if self.mode == "warn":
                warnings.warn(line, stacklevel=1)
                warnings.warn(line, stacklevel=1)
            if self.mode == "error":
                raise RuntimeError(line if batch is None else batch)


def test_waits_are_told_from_other_warnings_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = Waiting()
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(trainer, "mode", mode))
    with pytest.warns(UserWarning, match="of this test"):
        assert host_waits.waits_in_step(trainer, None).total() == 2
        warnings.warn("of this test", stacklevel=1)  # what shows warnings is what it was
    assert host_waits.first_wait(trainer, None).endswith("train_step")
    with pytest.raises(RuntimeError, match="out of memory"):
        host_waits.first_wait(trainer, "out of memory")
    assert trainer.mode == "default"


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_one" time="1.5"/>
<testcase classname="tests.a" name="test_two" time="1"><skipped message="no"/></testcase>
<testcase classname="tests.a" name="test_three" time="1"><failure message="m">def f():
E       assert 1 == 2
E       AssertionError: wrong
tests/a.py:3: AssertionError</failure></testcase>
</testsuite></testsuites>"""


def test_failures_are_named(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(REPORT)
    figures, failures = cuda_tests.outcome(tmp_path / "tests.xml")
    assert figures == {"tests": 3, "passed": 1, "skipped": 1, "failed": 1, "seconds": 3.5}
    where = "tests/a.py:3: AssertionError"
    assert failures == [{"test": "tests.a::test_three", "error": "AssertionError: wrong", "where": where}]
