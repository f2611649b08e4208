"""DLRM of 26 tables of dim 128: samples/s of a step and from Parquet, what its kernels take, and memory.

The configuration is the one that NVIDIA's public figures are of: MLPs of 512-256-128 and 1024-1024-512-256-1, batches
of 65,536 rows, a bf16 tower, tables of fp16 with row-wise AdaGrad. Tables of 10 GB in all come first, whose figures are
there after a minute; those of 100 GB after them.
"""

import os
import time
from itertools import cycle
from typing import Any

import torch

from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import config_of, in_process, made_log
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task
from shardrec.trainer.benchmarks.gpu_check.sections.timing import profiled, seconds_each
from shardrec.trainer.benchmarks.step import in_memory, measure_step
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.peak_memory import pss_bytes
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer

FIELDS, DENSE, DIM = 26, 13, 128
BATCH, STEPS, READERS = 65_536, 20, 8
SIZES = {"10 GB": 1_500_000, "100 GB": 15_000_000}
"""Rows of each table, by what all of them take in fp16."""
AIMS = {"aim_step_samples_per_second": 8_000_000, "aim_end_to_end_samples_per_second": 6_000_000}
MODEL: dict[str, Any] = {
    "name": "dlrm",
    "embedding_dim": DIM,
    "bottom": {"hidden": [512, 256]},
    "mlp": {"hidden": [1024, 1024, 512, 256]},
}


def run(task: Task, report: Report) -> None:
    """Reports figures of each size, under its name."""
    began = time.monotonic()
    sizes = {"small": 300} if task.small else SIZES
    batch, steps = (128, 2) if task.small else (BATCH, STEPS)
    rows = batch * (steps + 1)
    for name, ids in sizes.items():
        spent = time.monotonic() - began
        if spent > 0.6 * task.seconds:
            report(f"{name}: left out", f"{task.seconds - spent:.0f} s are left")
            continue
        data = made_log(task.scratch / f"data-{ids}", rows, fields=FIELDS, ids=ids, dense=DENSE)
        report(f"{name}: log, seconds", round(time.monotonic() - began - spent, 1))
        reading = {} if task.small else {"memory": "8GB", "readers": READERS}
        content = {
            "data": {"path": str(data), "global_batch_size": batch, **reading},
            "model": MODEL if not task.small else {**MODEL, "embedding_dim": 16},
            "tables": {"*": {"dtype": "fp16"}},
            "trainer": {"precision": "bf16"},
        }
        config = config_of(task, f"dlrm-{ids}", content)
        in_process(dlrm_worker, config, steps=steps, task=task, size=name, report=report)


def dlrm_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    steps: int,
    task: Task,
    size: str,
    report: Report,
) -> dict[str, Any]:
    """Measures the step first, then steps that do not wait for each other, then what kernels take, then memory."""
    began = time.monotonic()
    trainer = Trainer(config, folder, environment)
    report(f"{size}: tables, seconds", round(time.monotonic() - began, 1))
    report(f"{size}: parameters", trainer.session.parameters["tables"])
    device = environment.device
    try:
        report(f"{size}: step", [{**measure_step(trainer, steps), **AIMS}])
        batches = cycle(in_memory(trainer.loader, device))

        def step() -> None:
            trainer.train_step(next(batches))

        rows = config.data.global_batch_size
        report(f"{size}: samples_per_second of steps in a row", round(rows / seconds_each(step, steps, device)))
        if device.type == "cuda":
            report(f"{size}: peak_device_memory_bytes", torch.cuda.max_memory_reserved(device))
            report(f"{size}: peak_allocated_bytes", torch.cuda.max_memory_allocated(device))
        report(f"{size}: memory_of_the_process_bytes", pss_bytes(os.getpid()))
        trace = task.folder / f"dlrm-{size.replace(' ', '-')}-trace.json.gz"
        report(f"{size}: profile of a step", profiled(step, 3, device, trace))
        report(f"{size}: trace", trace.name)
    finally:
        trainer.reporter.close()
    return {}
