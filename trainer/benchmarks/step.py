"""`shardrec bench step` measures the training step in memory, beside its bound, and end to end from Parquet."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.benchmarks.bound import Bound
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer

BATCHES_IN_MEMORY = 16
WARM_UP_STEPS = 5


def step_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, steps: int, bound: bool = False
) -> dict[str, Any]:
    """Returns what `measure_step` does, of a run as its file says."""
    return measure_step(Trainer(config, folder, environment), steps, bound=bound)


def measure_step(trainer: Trainer, steps: int, *, bound: bool = False) -> dict[str, Any]:
    """Returns the median step time over batches in memory, its parts, and the rate from Parquet, of the slowest rank.

    bound: whether the step's bound is measured in turns with it, on the rank that returns it.

    Samples for `decay: frequency` are counted over the batches in memory only: steps cost the same, and large data are
    not read through.
    """
    trainer.session.distributed.module.train()
    config, environment = trainer.config, trainer.environment
    rows, device = config.data.global_batch_size, environment.device
    batches = in_memory(trainer.loader, device)
    trainer.session.distributed.count_samples(batches)
    train_step = _step_in_memory(trainer, batches)
    _warm_up(train_step, batches)
    environment.barrier()
    least = Bound.of_step(train_step, trainer.session.distributed, batches[0]) if bound else None
    timed = list(_steps_and_bound(device, train_step, islice(cycle(batches), steps), least))
    step, cpu = (statistics.median(seconds) for seconds in zip(*timed, strict=True))
    lookup = statistics.median(_seconds(device, _lookup, trainer, b) for b in islice(cycle(batches), steps))
    forward = statistics.median(_seconds(device, _forward, trainer, b) for b in islice(cycle(batches), steps))
    feed = trainer.feed(1, 0, min(steps + 1, trainer.loader.steps_per_epoch))
    end_to_end = _seconds_each((partial(trainer.step, prepared, feed.prepare) for prepared in feed), device)
    figures = {
        "step_samples_per_second": rows / max(environment.gather(step)),
        "end_to_end_samples_per_second": rows / max(environment.gather(end_to_end)),
        "step_milliseconds": 1e3 * step,
        "step_cpu_milliseconds": 1e3 * cpu,
        "lookup_milliseconds": 1e3 * lookup,
        "tower_forward_milliseconds": 1e3 * max(0.0, forward - lookup),
        "backward_and_update_milliseconds": 1e3 * max(0.0, step - forward),
    }
    if least is not None:
        figures |= least.figures()
        figures["step_to_bound"] = 1e3 * step / figures["bound_milliseconds"]
    return {
        "model": config.model["name"],
        "world_size": environment.world_size,
        "threads": torch.get_num_threads(),
        "global_batch_size": rows,
        "precision": trainer.session.config.trainer.precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "table_optimizer": config.optimizer.tables.name,
        **{name: round(value, 3) for name, value in figures.items()},
    }


def steps_per_second(
    train_step: Callable[[Batch], None],
    loader: Loader,
    device: torch.device,
    steps: int,
    prepare: Callable[[list[Batch]], None] | None = None,
) -> tuple[float, float]:
    """Returns the steps/s on batches in memory (median) and from Parquet, each over `steps`, in a world of one.

    prepare: gets the batches in memory before the first step.
    """
    batches = in_memory(loader, device)
    if prepare:
        prepare(batches)
    _warm_up(train_step, batches)
    step = statistics.median(_seconds(device, train_step, b) for b in islice(cycle(batches), steps))
    read = (partial(train_step, batch.to(device)) for batch in islice(loader.epoch(1), steps + 1))
    return 1 / step, 1 / _seconds_each(read, device)


def _steps_and_bound(
    device: torch.device, train_step: Callable[[Batch], None], batches: Iterable[Batch], bound: Bound | None
) -> Iterator[tuple[float, float]]:
    """Yields the seconds of each step, and those of this process's threads; between them the bound is measured."""
    for batch in batches:
        began = time.process_time()
        seconds = _seconds(device, train_step, batch)
        yield seconds, time.process_time() - began
        if bound is not None:
            bound.measure()


def in_memory(loader: Loader, device: torch.device) -> list[Batch]:
    """Returns an epoch's first batches, on the device."""
    return [batch.to(device) for batch in islice(loader.epoch(0), BATCHES_IN_MEMORY)]


def _step_in_memory(trainer: Trainer, batches: Iterable[Batch]) -> Callable[[Batch], None]:
    """Returns what makes a step by one of some batches in memory.

    On a GPU they were prepared before, as in a run: to ask it what they count would be to wait for the step before.
    """
    if trainer.environment.device.type == "cpu":
        return trainer.train_step
    prepared = {id(batch): trainer.prepared(batch) for batch in batches}
    return lambda batch: trainer.step(prepared[id(batch)])


def _warm_up(train_step: Callable[[Batch], None], batches: list[Batch]) -> None:
    for batch in islice(cycle(batches), WARM_UP_STEPS):
        train_step(batch)


def _seconds(device: torch.device, work: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _lookup(trainer: Trainer, batch: Batch) -> None:
    with torch.no_grad():
        trainer.session.distributed.lookup(batch)


def _forward(trainer: Trainer, batch: Batch) -> None:
    trainer.session.distributed.module(batch)


def _seconds_each(steps: Iterable[Callable[[], None]], device: torch.device) -> float:
    """Returns the seconds that each step takes after the first, with what reads its batch."""
    made, began = 0, 0.0
    for make_step in steps:
        make_step()
        began = began or time.perf_counter()
        made += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / max(1, made - 1)
