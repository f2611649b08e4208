"""History forms: DIN and DIEN from Parquet on the device, beside the same models on padded histories."""

from itertools import product
from typing import Any

from shardrec.data_pipeline.prepare.generators.interests import InterestLog
from shardrec.data_pipeline.prepare.generators.planted import Histories
from shardrec.data_pipeline.prepare.generators.synthetic import write_log
from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import in_process
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse
from shardrec.trainer.benchmarks.histories import (
    FORMS,
    ITEMS,
    MAX_LENGTH,
    MEAN_LENGTH,
    history_run,
    measure_worker,
)

BATCH, STEPS = 8192, 10
MEASURES = ("step_samples_per_second", "end_to_end_samples_per_second", "peak_device_memory_bytes")


def run(task: Task, report: Report) -> None:
    """Reports a row for each model, precision and form; raises for those that fail, once all were tried."""
    batch, steps = (64, 2) if task.small else (BATCH, STEPS)
    histories = Histories(100, 5.0, 9) if task.small else Histories(ITEMS, MEAN_LENGTH, MAX_LENGTH)
    write_log(InterestLog(histories, negatives=True), task.scratch / "data", batch * (steps + 1), {"train": 1.0})
    launched = [f"launch.device={task.device}"]
    models = ("din", "dien") if task.small else ("din", "dien", "dien_auxiliary", "bst")
    precisions = ("bf16",) if task.small else ("bf16", "fp32")
    rows: list[dict[str, Any]] = []
    problems = []
    for precision, model in product(precisions, models):
        config = history_run(task.scratch, task.scratch / "data", model, precision, batch, launched)
        ours = 0.0
        for form in FORMS:
            own = config.model_copy(update={"run": f"{config.run}-{form}"})
            row: dict[str, Any] = {"model": model, "precision": precision, "form": "ours" if form == "jagged" else form}
            try:
                measured = in_process(measure_worker, own, form=form, steps=steps)
            except Exception as error:
                problems.append(f"{model} {precision} {form}: {type(error).__name__}: {error}")
                continue
            row |= {name: round(measured[name]) for name in MEASURES if name in measured}
            rate = measured["step_samples_per_second"]
            ours = rate if form == "jagged" else ours
            row["ours_to_this"] = round(ours / rate, 2)
            rows.append(row)
            report("histories", rows)
    refuse(problems)
