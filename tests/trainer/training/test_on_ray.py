"""Two Ray workers train every model as one process does, and one model as spawned processes do, bit for bit.

One Ray job trains all of them one after another, since starting Ray and its workers costs more than training them all.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from shardrec.models import MODELS
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import STEPS, run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.worker import run_worker
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.hooks import Hook
from tests.trainer.recorded import RecordingTrainer, assert_same_checkpoint, recording_worker, train_in_processes
from tests.trainer.small_run import run_file, write_data

pytestmark = pytest.mark.long

# an epoch with dropout, evaluation and as fast products as a run would have
WHOLE = {
    "model": {"mlp": {"hidden": [16, 8], "activation": "tanh", "dropout": 0.1}},
    "trainer": {"epochs": 1, "matmul_precision": "auto"},
}


class BareTrainer(RecordingTrainer):
    """Only trains: no evaluation, no checkpoints."""

    @property
    def hooks(self) -> list[Hook]:
        return []


def train_each(
    config: RunConfig, folder: RunFolder, environment: Environment, run_files: dict[str, str], whole: str | None
) -> dict[str, Any]:
    """The losses of every step by run, the placements of its tables, and the ranks that trained it.

    Where `whole` names a run folder, that run is trained with all that belongs to a run; its result is under "whole".
    """
    found: dict[str, Any] = {}
    for name, path in run_files.items():
        trainer = BareTrainer(load(path), folder, environment)
        trainer.record()
        trainer.fit()
        placements = sorted({t.placement for t in trainer.session.plan.tables.values()})
        ranks = len(environment.gather(trainer.rows))
        found[name] = {"losses": trainer.losses, "placements": placements, "ranks": ranks}
    if whole:
        run = RunFolder(Path(whole))
        found["whole"] = run_worker(recording_worker, run.config(), run, environment, {})
    return found


def train(folder: Path, run_files: dict[str, str], workers: int, whole: Path | None = None) -> dict[str, Any]:
    config = load(next(iter(run_files.values())), (f"run={folder}", f"launch.workers={workers}"))
    created = RunFolder.create(load(whole), resume=False) if whole else None
    arguments = {"run_files": run_files, "whole": str(created.path) if created else None}
    return launch(train_each, config, RunFolder.create(config, resume=False), **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("on_ray")


@pytest.fixture(scope="module")
def run_files(folder: Path) -> dict[str, str]:
    return run_files_of_every_model(folder)


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> Path:
    """A run file of the small DeepFM."""
    return run_file(folder / "whole.yaml", write_data(folder / "data", rows=1200), **WHOLE)


@pytest.fixture(scope="module")
def on_ray(folder: Path, run_files: dict[str, str], whole_run: Path) -> dict[str, Any]:
    """What `train_each` returns on two Ray workers; Ctrl-C is afterwards as it was."""
    before = signal.getsignal(signal.SIGINT)
    found = train(folder / "ray", run_files, 2, whole_run)
    assert signal.getsignal(signal.SIGINT) == before
    return found


@pytest.fixture(scope="module")
def alone(folder: Path, run_files: dict[str, str]) -> dict[str, Any]:
    """What it returns in one process."""
    return train(folder / "alone", run_files, 1)


@pytest.mark.parametrize("name", MODELS)
def test_two_ray_workers_train_as_one_process(name: str, alone: dict[str, Any], on_ray: dict[str, Any]) -> None:
    one, two = alone[name], on_ray[name]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert "row_wise" in two["placements"]
    assert len(one["losses"]) == STEPS and max(one["losses"]) - min(one["losses"]) > 0.01
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_ray_equals_spawned_processes_bit_for_bit(folder: Path, whole_run: Path, on_ray: dict[str, Any]) -> None:
    result = on_ray["whole"]
    (expected,) = train_in_processes(2, whole_run, (f"run={folder}/spawned",))
    assert result["world_size"] == expected["world_size"] == 2
    assert result["batches"] == expected["batches"]
    assert result["losses"] == expected["losses"]
    assert result["metrics"] == expected["metrics"]
    last = f"checkpoints/step-{result['steps']}"
    assert_same_checkpoint(folder / "whole" / last, folder / "spawned" / last)
