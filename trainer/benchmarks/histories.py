"""`shardrec bench histories` measures history models from Parquet on, beside the same models written the padded way.

Each measurement is a process of its own, so that peaks of memory are its own too; forms take turns, so that a machine
that is slow for a while is slow for both.
"""

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.generators.interests import InterestLog
from shardrec.data_pipeline.prepare.generators.planted import Histories
from shardrec.data_pipeline.prepare.generators.synthetic import write_log
from shardrec.trainer.benchmarks.padded_histories import PaddedTraining
from shardrec.trainer.benchmarks.step import steps_per_second
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.peak_memory import pss_bytes
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.inspection import inspect_run
from shardrec.trainer.training.trainer import Trainer

Form = Literal["jagged", "padded", "tuned"]
FORMS: tuple[Form, ...] = ("jagged", "padded", "tuned")
"""A model's forms are ours, the padded one as it usually comes, and the padded one tuned."""

MODELS: dict[str, dict[str, Any]] = {
    "base": {"name": "pooled_history"},
    "din": {"name": "din"},
    "dien": {"name": "dien", "auxiliary": 0},
    "dien_auxiliary": {"name": "dien"},
    "bst": {"name": "bst"},
}
"""The models by the names of `--models`: default settings, DIEN without and with its auxiliary loss."""

ITEMS, MEAN_LENGTH, MAX_LENGTH = 200_000, 23.0, 50  # of the log that is made where none is given


def benchmark_histories(
    data: Path | None,
    scratch: Path,
    *,
    models: Sequence[str],
    precisions: Sequence[str],
    rows: int,
    batch_size: int,
    steps: int,
    rounds: int,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns medians over `rounds` of all forms' rates, peaks and ratios, for each model and precision.

    data: a prepared folder; None: `rows` training rows with planted interests are made in `scratch`. steps: how many
    are timed in each measurement. Raises UserError for unknown models and what `inspect_run` finds.
    """
    for name in models:
        if name not in MODELS:
            raise UserError("--models: " + unknown("model", name, list(MODELS)))
    if data is None:
        data = scratch / "data"
        log = InterestLog(Histories(ITEMS, MEAN_LENGTH, MAX_LENGTH), negatives=True)
        write_log(log, data, rows, {"train": 1.0}, progress=progress)
    runs = {
        (model, precision): history_run(scratch, data, model, precision, batch_size, overrides)
        for model, precision in product(models, precisions)
    }
    for config in runs.values():
        inspect_run(config)
    measurements: dict[tuple[str, str, Form], list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for (model, precision), config in runs.items():
            for form in FORMS if turn % 2 == 0 else FORMS[::-1]:
                run = config.model_copy(update={"run": f"{config.run}-{form}-{turn}"})
                measured = in_own_process(measure, run, form, steps)
                measurements.setdefault((model, precision, form), []).append(measured)
                rate = measured["end_to_end_samples_per_second"]
                progress(f"round {turn + 1} of {rounds}: {model} {precision} {form}: {rate:,.0f} samples/s")
    first = next(iter(measurements.values()))[0]
    settings = {name: first[name] for name in ("threads", "matmul_precision", "rows")}
    return {
        **settings,
        "global_batch_size": batch_size,
        "rounds": rounds,
        "steps": steps,
        "results": [_compared(m, p, {form: measurements[m, p, form] for form in FORMS}) for m, p in runs],
    }


def history_run(
    scratch: Path, data: Path, model: str, precision: str, batch_size: int, overrides: Iterable[str]
) -> RunConfig:
    """Returns the run that is measured of one of `MODELS`; its file is written to `scratch`."""
    path = scratch / f"{model}-{precision}.yaml"
    content = {
        "run": str(path.with_suffix("")),
        "data": {"path": str(data), "global_batch_size": batch_size},
        "model": MODELS[model],
        "trainer": {"precision": precision, "tensorboard": False},
        "launch": {"workers": 1, "backend": "in_process"},
    }
    path.write_text(dump_document(content))
    return load(path, overrides)


def in_own_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Returns what `work` does, called in a fresh process. Raises what it raises; UserError where the process dies."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()
    except BrokenProcessPool:
        raise UserError("bench: a measuring process died, of memory most likely; try fewer rows or less") from None


def measure(config: RunConfig, form: Form, steps: int) -> dict[str, Any]:
    """Measures one form in this process; returns its rates and its peak of memory."""
    measured = supervised(
        measure_worker, config, RunFolder.create(config, resume=False), quiet=True, form=form, steps=steps
    )
    assert measured is not None
    return measured


def measure_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, form: Form, steps: int
) -> dict[str, Any]:
    """Returns samples/s of the step alone and end to end, with the settings that they depend on.

    `started_bytes` says what memory the process took before tables and reader: its libraries.
    """
    started = pss_bytes(os.getpid())
    training: Trainer | PaddedTraining
    if form == "jagged":
        training = Trainer(config, folder, environment)
        tables = training.session.distributed
        module, prepare = tables.module, tables.count_samples
    else:
        training = PaddedTraining(config, environment, tuned=form == "tuned")
        module, prepare = training.module, None
    module.train()
    step, end_to_end = steps_per_second(training.train_step, training.loader, environment.device, steps, prepare)
    return {
        "step_samples_per_second": config.data.global_batch_size * step,
        "end_to_end_samples_per_second": config.data.global_batch_size * end_to_end,
        "started_bytes": started,
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "rows": training.loader.num_rows,
    }


def _compared(model: str, precision: str, measured: dict[Form, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Returns medians over the rounds; a ratio is the median of the rounds' own ratios of our rate to the form's."""
    result: dict[str, Any] = {"model": model, "precision": precision}
    for name in ("end_to_end_samples_per_second", "step_samples_per_second", "peak_memory_bytes", "started_bytes"):
        for form, of_rounds in measured.items():
            result[f"{form}_{name}"] = round(statistics.median(m[name] for m in of_rounds))
    for name, form in product(("end_to_end", "step"), FORMS[1:]):
        key = f"{name}_samples_per_second"
        rounds = zip(measured["jagged"], measured[form], strict=True)
        result[f"{name}_ratio_to_{form}"] = round(statistics.median(a[key] / b[key] for a, b in rounds), 2)
    return result
