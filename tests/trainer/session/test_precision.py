"""`trainer.precision: auto` becomes what chips are fast at where a run begins, and stays that for good."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.export.self_check import BOUNDS
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.planning.machines import matmul_kind
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.evaluate import evaluate_run
from shardrec.trainer.session import precision
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.precision import bf16_to_fp32, settled
from shardrec.trainer.session.session import Session
from tests.emulated_cuda.emulated import emulated_cuda
from tests.processes import run_processes
from tests.trainer.command_line import shardrec
from tests.trainer.recorded import assert_same_checkpoint
from tests.trainer.small_run import run_file, write_data

AUTO = {"precision": "auto", "max_steps": 4, "checkpoint": {"every_steps": 2}}
FAST, SLOW = 2.0, 0.3
"""Ratios of the rates of products, as chips with units for bf16 and without have them."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("precision") / "data", rows=1200)


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(precision, "bf16_to_fp32", lambda device: FAST)
    return monkeypatch


def replaced(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setattr(precision, "bf16_to_fp32", lambda device: ratio)


def config_of(path: Path, data: Path, value: str) -> RunConfig:
    return load(run_file(path / "run.yaml", data, trainer={"precision": value}))


def starts(folder: RunFolder) -> list[str]:
    return [record["precision"] for record in folder.records() if record["kind"] == "start"]


def test_measuring_leaves_threads_and_draws_as_they_are() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert 0 < bf16_to_fp32(torch.device("cpu")) < 100
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("ratio", "expected"), [(FAST, "bf16"), (1.9, "bf16"), (1.0, "fp32"), (SLOW, "fp32")])
def test_one_line_says_what_it_came_to(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, expected: str
) -> None:
    replaced(monkeypatch, ratio)
    said: list[str] = []
    config = settled(config_of(tmp_path, data, "auto"), Environment.from_variables("cpu"), said.append)
    assert config.trainer.precision == expected
    assert [f"auto: {expected}" in line and f"{1 / ratio:.2f} of the time" in line for line in said] == [True]


@pytest.mark.parametrize(
    ("major", "line"), [(9, "bf16, since the GPU has units"), (7, "fp32, since the GPU has no units")]
)
def test_a_gpu_says_what_it_has(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, major: int, line: str
) -> None:
    environment = Environment(0, 1, 0, 1, torch.device("cuda", 0))
    said: list[str] = []
    with emulated_cuda(), monkeypatch.context() as inside:
        inside.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
        settled(config_of(tmp_path, data, "auto"), environment, said.append)
    assert [line in one for one in said] == [True]


@pytest.mark.parametrize("value", ["fp32", "bf16"])
def test_what_the_run_file_says_is_not_asked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(precision, "bf16_to_fp32", None)
    said: list[str] = []
    config = config_of(tmp_path, data, value)
    assert settled(config, Environment.from_variables("cpu"), said.append) == config and not said


def test_a_run_keeps_what_it_began_with(
    data: Path, tmp_path: Path, chip: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Resumed, evaluated, predicted with and exported on a chip that would have chosen otherwise."""
    path = run_file(tmp_path / "run.yaml", data, trainer=AUTO)
    shardrec(chip, "train", path, "--quiet")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config().trainer.precision == "bf16" and starts(folder) == ["bf16"]
    assert capfd.readouterr().err.count("trainer.precision auto: bf16, since") == 1

    replaced(chip, SLOW)
    shardrec(chip, "train", path, "--quiet", "--resume", "--set", "trainer.max_steps=6")
    assert folder.config().trainer.precision == "bf16" and starts(folder) == ["bf16", "bf16"]
    assert "precision auto" not in capfd.readouterr().err

    named = run_file(tmp_path / "named.yaml", data, trainer=AUTO | {"precision": "bf16", "max_steps": 6})
    shardrec(chip, "train", named, "--quiet")
    assert_same_checkpoint(folder.checkpoint(6), RunFolder.open(tmp_path / "named").checkpoint(6))

    scores, expected = (evaluate_run(tmp_path / run, quiet=True)["metrics"] for run in ("run", "named"))
    assert scores == expected
    session = Session.build(Blueprint(folder.config(), folder.schema()), Environment.from_variables("cpu"))
    assert session.forward.precision == "bf16"
    shardrec(chip, "export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["check"]["bound"] == BOUNDS["bf16"]


def test_a_run_that_stopped_before_its_first_checkpoint_keeps_it_too(
    data: Path, tmp_path: Path, chip: pytest.MonkeyPatch
) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer=AUTO)
    config = load(path)
    folder = RunFolder.create(config, resume=False)
    assert folder.config().trainer.precision == "auto"
    folder.settle(config.with_precision("bf16"))
    replaced(chip, SLOW)
    shardrec(chip, "train", path, "--quiet", "--resume")
    assert starts(folder) == ["bf16"] and folder.config().trainer.precision == "bf16"


def test_what_it_came_to_is_no_other_setting(data: Path, tmp_path: Path, chip: pytest.MonkeyPatch) -> None:
    """A comparison that is repeated keeps its runs."""
    path = run_file(tmp_path / "run.yaml", data, trainer=AUTO)
    command = ("compare", path, "--models", "deepfm", "--seeds", "1", "--quiet")
    shardrec(chip, *command)
    runs = (tmp_path / "run/runs.csv").read_text()
    shardrec(chip, *command)
    assert (tmp_path / "run/runs.csv").read_text() == runs


def settle_on_a_rank(rank: int, values: list[str], ratios: list[float], path: Path) -> tuple[str, list[str]]:
    precision.bf16_to_fp32 = lambda device: ratios[rank]
    environment = Environment.from_variables("cpu")
    said: list[str] = []
    with environment.group(60):
        return settled(load(path).with_precision(values[rank]), environment, said.append).trainer.precision, said


@pytest.mark.parametrize(
    ("values", "ratios", "expected"),
    [
        (["auto", "auto"], [FAST, FAST], "bf16"),
        (["auto", "auto"], [FAST, SLOW], "fp32"),
        (["bf16", "auto"], [SLOW, SLOW], "bf16"),  # rank 0 has read what the run began with
    ],
)
def test_workers_agree(data: Path, tmp_path: Path, values: list[str], ratios: list[float], expected: str) -> None:
    path = run_file(tmp_path / "run.yaml", data)
    (first, said), (second, nothing) = run_processes(2, settle_on_a_rank, values, ratios, path)
    assert first == second == expected and not nothing
    assert len(said) == (values[0] == "auto") and all("the slowest of 2 workers" in line for line in said)


def test_a_plan_takes_what_its_device_is_fast_at(data: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, data, "auto")
    assert {matmul_kind(config, device) for device in ("cpu", "cuda")} == {"bf16"}
    assert matmul_kind(config.with_precision("fp32"), "cpu") == "medium"
