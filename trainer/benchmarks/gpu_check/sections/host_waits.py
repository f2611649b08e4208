"""Waits: where one step of each model waits for the GPU, by CUDA's own word and by the operations that read values.

CUDA's word is torch's `set_sync_debug_mode`: a step under `warn` counts each wait, and one under `error` says where the
first is. In backward the former knows no place but `backward()`: the reads that `HostReads` sees do. On CPU there are
these alone.
"""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.benchmarks.gpu_check.sections.host_reads import PACKAGE, HostReads, Place, place_of
from shardrec.trainer.benchmarks.gpu_check.sections.short_runs import in_process
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse
from shardrec.trainer.benchmarks.gpu_check.sections.timing import synchronize
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer

WARM_UP_STEPS = 2
WAITED = "called a synchronizing CUDA operation"


def run(task: Task, report: Report) -> None:
    """Reports a row for each model, after each of them; raises where a model's step fails."""
    run_files = run_files_of_every_model(task.scratch)
    own = [f"launch.device={task.device}", "launch.workers=1", "launch.backend=in_process"]
    configs = {
        name: load(path, [*own, f"run={task.scratch / name}", f"trainer.max_steps={WARM_UP_STEPS + 3}"])
        for name, path in run_files.items()
    }
    first = next(iter(configs.values())).model_copy(update={"run": str(task.scratch / "all")})
    in_process(models_worker, first, configs=configs, report=report)


def models_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    configs: Mapping[str, RunConfig],
    report: Report,
) -> dict[str, Any]:
    """Looks at all models in turn, in one process group. Raises UserError for those whose step fails."""
    rows: list[dict[str, Any]] = []
    everywhere: Counter[str] = Counter()
    problems = []
    for name, of_model in configs.items():
        rows.append({"model": name})
        try:
            look_at(of_model, environment, rows[-1], everywhere)
        except Exception as error:
            rows[-1]["failed"] = _line_of(error)
            problems.append(f"{name}: {_line_of(error)}")
        report("models", rows)
        report("places", [{"place": place, "count": n} for place, n in everywhere.most_common()])
    refuse(problems)
    return {}


def look_at(config: RunConfig, environment: Environment, row: dict[str, Any], places: Counter[str]) -> None:
    """Adds to a model's row what its steps wait for, and where to the places of all models."""
    trainer = Trainer(config, RunFolder.create(config, resume=False), environment)
    try:
        trainer.session.distributed.module.train()
        batches = list(islice(trainer.loader.epoch(0), WARM_UP_STEPS + 3))
        for batch in batches[:WARM_UP_STEPS]:
            trainer.train_step(batch)
        synchronize(environment.device)
        on_gpu = environment.device.type == "cuda"
        if on_gpu:
            waits = waits_in_step(trainer, batches[WARM_UP_STEPS])
            row["waits"] = waits.total()
            places.update({f"waits: {_shown(place)}": n for place, n in waits.items()})
        with HostReads() as reads:
            trainer.train_step(batches[WARM_UP_STEPS + 1])
        row["host_reads"] = reads.total
        places.update({f"reads: {_shown(place)} ({what})": n for (place, what), n in reads.places.items()})
        if on_gpu:  # last: its step is not finished
            row["first_wait"] = first_wait(trainer, batches[WARM_UP_STEPS + 2])
    finally:
        trainer.reporter.close()


def waits_in_step(trainer: Trainer, batch: Any) -> Counter[Place]:
    """Returns how often a step waits for the GPU, by place."""
    waits: Counter[Place] = Counter()

    def note(message: Warning | str, *where: Any, **settings: Any) -> None:
        if WAITED in str(message):
            waits[place_of(sys._getframe(1))] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # put back with the filters
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waits


def first_wait(trainer: Trainer, batch: Any) -> str:
    """Returns where a step first waits for the GPU, `none` where it does not; the step is not finished there."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(batch)
    except RuntimeError as error:
        if WAITED not in str(error):
            raise
        return _place_in(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def _place_in(error: BaseException) -> str:
    """Returns the innermost place of this package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(PACKAGE) and "/gpu_check/" not in f.filename] or list(frames)
    return f"{ours[-1].filename.removeprefix(PACKAGE)}:{ours[-1].lineno} {ours[-1].name}"


def _shown(place: Place) -> str:
    file, line, function = place
    return f"{file}:{line} {function}"


def _line_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]} at {_place_in(error)}"
