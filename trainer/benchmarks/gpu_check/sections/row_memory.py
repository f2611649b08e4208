"""Row memory: the same run with its rows in device memory, managed memory, host memory and behind a cache."""

from pathlib import Path
from typing import Any

from shardrec.trainer.benchmarks.gpu_check.sections.losses import BASE
from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import (
    config_of,
    in_process,
    made_log,
    recording_worker,
)
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse
from shardrec.trainer.checkpoints.difference import Unlike, compare_checkpoints

ALIKE = 1e-5
"""Weights and state are to be within this of those in device memory."""
KINDS: dict[str, dict[str, Any]] = {
    "device": {"memory": "device"},
    "managed": {"memory": "managed"},
    "host": {"memory": "host"},
    "cached": {"memory": "cached", "cache_share": 0.1},
}


def run(task: Task, report: Report) -> None:
    """Reports a row for each kind of memory; raises where what was learned differs from device memory."""
    steps, batch, ids, dim = (3, 256, 100, 8) if task.small else (20, 16_384, 100_000, 64)
    data = made_log(task.scratch / "data", steps * batch, fields=4 if task.small else 26, ids=ids, dense=4)
    model = BASE["model"] | {"embedding_dim": dim}
    rows: list[dict[str, Any]] = []
    problems = []
    for name, settings in KINDS.items():
        content = BASE | {"data": {"path": str(data), "global_batch_size": batch}, "model": model}
        content |= {"tables": {"*": settings}, "trainer": BASE["trainer"] | {"max_steps": steps}}
        try:
            found = in_process(recording_worker, config_of(task, name, content))
        except Exception as error:  # the other kinds are looked at all the same
            problems.append(f"{name}: {type(error).__name__}: {error}")
            continue
        checkpoint = Path(found["checkpoint"])
        row = {"memory": name, "step_ms": found["step_milliseconds"], "last_loss": found["losses"][-1]}
        if name == "device":
            reference = checkpoint
        else:
            row["largest_difference"] = largest = _largest_difference(reference, checkpoint)
            if not largest <= ALIKE:
                problems.append(f"{name}: what was learned is {largest:.2g} from what device memory learned")
        rows.append(row)
        report("memory", rows)
    refuse(problems)


def _largest_difference(a: Path, b: Path) -> float:
    """Returns the largest absolute difference of two checkpoints' values; infinite where their names or shapes do."""
    differences = compare_checkpoints(a, b).differences
    return max((float("inf") if isinstance(d, Unlike) else d.largest or 0.0 for d in differences), default=0.0)
