"""Dynamic tables: a step with unbounded ids beside the same step without, and a stream whose counts must be right."""

from typing import Any

from shardrec.models.dynamic_ids import DynamicConfig
from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import config_of, in_process, made_log
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse
from shardrec.trainer.benchmarks.id_stream import Stream, build_table, run_stream
from shardrec.trainer.benchmarks.ids import MUST_BE_ZERO
from shardrec.trainer.benchmarks.step import steps_per_second
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer


def run(task: Task, report: Report) -> None:
    """Reports both steps, then the stream; raises where a count that must be 0 is not."""
    batch, steps, ids, fields = (128, 2, 1000, 4) if task.small else (65_536, 10, 200_000, 26)
    data = made_log(task.scratch / "data", batch * (steps + 1), fields=fields, ids=ids, dense=13)
    rows: list[dict[str, Any]] = []
    for name, tables in (("static", {}), ("dynamic", {"*": {"dynamic": {"rows": ids // 2, "after": 1}}})):
        content = {
            "data": {"path": str(data), "global_batch_size": batch},
            "model": {"name": "deepfm", "embedding_dim": 16, "mlp": {"hidden": [400, 400, 400]}},
            "tables": tables,
            "trainer": {"precision": "bf16"},
        }
        found = in_process(step_worker, config_of(task, name, content), steps=steps)
        rows.append({"tables": name} | found)
        report("steps", rows)
    stream = Stream(20_000, 20_000, 1000, 1.05) if task.small else Stream(5_000_000, 5_000_000, 100_000, 1.05)
    content = {"data": {"path": str(data), "global_batch_size": batch}, "model": "lr"}
    found = in_process(stream_worker, config_of(task, "stream", content), stream=stream, small=task.small)
    report("stream", [found])
    refuse([f"stream: {name.replace('_', ' ')} is {found[name]}, not 0" for name in MUST_BE_ZERO if found[name]])


def step_worker(config: RunConfig, folder: RunFolder, environment: Environment, *, steps: int) -> dict[str, Any]:
    """Returns samples/s of the step in memory and from Parquet."""
    trainer = Trainer(config, folder, environment)
    trainer.session.distributed.module.train()
    try:
        rates = steps_per_second(trainer.train_step, trainer.loader, environment.device, steps)
    finally:
        trainer.reporter.close()
    names = ("step_samples_per_second", "end_to_end_samples_per_second")
    return {name: round(config.data.global_batch_size * rate) for name, rate in zip(names, rates, strict=True)}


def stream_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, stream: Stream, small: bool
) -> dict[str, Any]:
    """Returns what a stream of raw ids through one table finds in the end."""
    settings = DynamicConfig(rows=2000 if small else 500_000, after=2)
    return run_stream(stream, build_table(settings, 16, environment.device), environment.device)
