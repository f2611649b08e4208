"""Short runs are what sections train: run files on made logs, for some steps, by one worker in this process."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.prepare.generators.synthetic import synthetic
from shardrec.trainer.benchmarks.gpu_check.sections.task import Task
from shardrec.trainer.benchmarks.gpu_check.sections.timing import synchronize
from shardrec.trainer.config.load import load
from shardrec.trainer.config.overrides import laid_over
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.freed_memory import give_back_freed_memory
from shardrec.trainer.launch.worker import Worker
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.prepared import Prepared
from shardrec.trainer.training.trainer import Trainer


def made_log(folder: Path, rows: int, *, fields: int, ids: int, dense: int) -> Path:
    """Writes a click log of training rows alone, with `ids` ids in each field; returns its folder."""
    synthetic(folder, rows=rows, fields=fields, ids=ids, dense=dense, fractions={"train": 1.0})
    return folder


def config_of(task: Task, name: str, content: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration of a run `name` on the task's device, by one worker in this process."""
    base = {
        "run": str(task.scratch / name),
        "trainer": {"tensorboard": False},
        "launch": {"workers": 1, "backend": "in_process", "device": task.device},
    }
    path = task.scratch / f"{name}.yaml"
    path.write_text(dump_document(laid_over(base, content)))
    return load(path, ())


def in_process(worker: Worker, config: RunConfig, **arguments: Any) -> dict[str, Any]:
    """Returns what the run's only worker returns; memory that it freed is given back."""
    try:
        return launch(worker, config, RunFolder.create(config, resume=False), **arguments)
    finally:
        give_back_freed_memory()


class RecordingTrainer(Trainer):
    """A recording trainer keeps the loss and the seconds of every step."""

    losses: list[float]
    seconds: list[float]

    def step(self, prepared: Prepared, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Makes a step, and waits until the device has done it."""
        began = time.perf_counter()
        super().step(prepared, meanwhile)
        synchronize(self.environment.device)
        self.seconds.append(time.perf_counter() - began)
        self.read_losses()
        self.losses.append(self.state.loss)


def recording_worker(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """Trains until the run's last step; returns its losses, the median milliseconds of a step, and its checkpoint."""
    trainer = RecordingTrainer(config, folder, environment)
    trainer.losses, trainer.seconds = [], []
    try:
        trainer.restore()
        trainer.fit()
    finally:
        trainer.reporter.close()
    later = trainer.seconds[len(trainer.seconds) // 4 :]  # the first ones load kernels
    return {
        "losses": trainer.losses,
        "step_milliseconds": round(1e3 * statistics.median(later), 3),
        "checkpoint": str(folder.path / "checkpoints" / f"step-{trainer.state.position.step}"),
    }
