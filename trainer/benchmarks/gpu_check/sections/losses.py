"""Losses: short runs on the device and on the CPU, from the same rows and the same weights, step by step."""

from typing import Any

from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import (
    config_of,
    in_process,
    made_log,
    recording_worker,
)
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse

FIRST, LAST = 1e-6, 1e-4
"""Within these the losses of the first and of the last step are to be alike."""
BASE: dict[str, Any] = {
    "model": {"name": "deepfm", "embedding_dim": 16, "mlp": {"hidden": [128, 64]}},
    "optimizer": {
        "tables": {"name": "rowwise_adagrad", "learning_rate": 0.2, "eps": 1e-3},
        "tower": {"name": "adam", "learning_rate": 3e-3},
    },
    "trainer": {"matmul_precision": "highest"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "rowwise_adagrad": {},
    "adam": {"optimizer": BASE["optimizer"] | {"tables": {"name": "adam", "learning_rate": 1e-3, "eps": 1e-4}}},
    "ftrl": {"optimizer": BASE["optimizer"] | {"tables": {"name": "ftrl", "l1": 1.0}}},
    "fp16": {"tables": {"*": {"dtype": "fp16", "rounding": "nearest"}}},
    "dynamic": {"tables": {"*": {"dynamic": {"rows": 2000, "after": 2}}}},
}


def run(task: Task, report: Report) -> None:
    """Reports a row for each variant; raises where losses are further apart than `FIRST` and `LAST`."""
    steps, batch = (4, 256) if task.small else (20, 4096)
    data = made_log(task.scratch / "data", steps * batch, fields=8, ids=10_000, dense=4)
    rows, problems = [], []
    for name, settings in VARIANTS.items():
        content = BASE | settings | {"data": {"path": str(data), "global_batch_size": batch}}
        content["trainer"] = BASE["trainer"] | {"max_steps": steps}
        found = {
            device: in_process(
                recording_worker,
                config_of(task, f"{name}-{device}", content | {"launch": {"device": where}}),
            )
            for device, where in (("cpu", "cpu"), ("device", task.device))
        }
        apart = [abs(a - b) for a, b in zip(found["cpu"]["losses"], found["device"]["losses"], strict=True)]
        rows.append(
            {
                "variant": name,
                "first_loss": found["device"]["losses"][0],
                "last_loss": found["device"]["losses"][-1],
                "first_apart": apart[0],
                "last_apart": apart[-1],
                "largest_apart": max(apart),
                **{f"{device}_step_ms": of["step_milliseconds"] for device, of in found.items()},
            }
        )
        report("losses", rows)
        if not (apart[0] <= FIRST and apart[-1] <= LAST):
            problems.append(f"{name}: losses are {apart[0]:.2g} and {apart[-1]:.2g} apart in steps 1 and {steps}")
    refuse(problems)
