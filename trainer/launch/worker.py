"""A worker's life is the same however it was launched: threads, process group, precision, work, a line if it fails."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.agreement import check_settings
from shardrec.trainer.launch.allocator import keep_freed_memory
from shardrec.trainer.launch.cores import too_many_threads, worker_threads
from shardrec.trainer.launch.deterministic import deterministic
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.freed_memory import peak_device_memory, watch_device_memory
from shardrec.trainer.launch.last_words import is_of_waiting
from shardrec.trainer.launch.peak_memory import UNSEEN_MEMORY, unseen_memory
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import leave_failure
from shardrec.trainer.run_folder.worker_lines import say

Worker = Callable[..., dict[str, Any]]
"""Takes (config, folder, environment, **arguments); rank 0's result, which JSON can hold, goes back to the launcher."""

MATMUL_ERROR = 1e-5  # relative; products under the default precision stay within it


def run_worker(
    worker: Worker, config: RunConfig, folder: RunFolder, environment: Environment, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Calls `worker` in its environment; adds the peak of its GPUs' memory to what it returns, where it has some.

    A UserError is also left in the run folder, where the launcher finds it. Where other workers do not come to a
    collective in time, one that is frozen is named.
    """
    keep_freed_memory()
    try:
        with (
            environment.group(config.launch.timeout),
            computing(config, environment),
            unseen_memory(environment) as unseen_peak,
        ):
            if environment.leads and (line := too_many_threads(config.launch, environment.local_world_size)):
                say(folder.logs, f"shardrec: {line}")
            watch_device_memory(environment)
            check_settings(config, arguments, environment)
            result = worker(config, folder, environment, **arguments) | peak_device_memory(environment)
            unseen = unseen_peak()
            return result | {UNSEEN_MEMORY: unseen} if unseen else result
    except UserError as error:
        leave_failure(folder, error)
        raise
    except Exception as error:
        silent = environment.signs.silent() if environment.signs and is_of_waiting(error) else None
        if silent is None:
            raise
        for note in getattr(error, "__notes__", ()):
            silent.add_note(note)
        raise silent from error


@contextmanager
def computing(config: RunConfig, environment: Environment) -> Iterator[None]:
    """Sets the threads and the precision of matrix products that a run computes with; restores both afterwards."""
    threads, wanted = torch.get_num_threads(), config.trainer.matmul_precision
    hush_tracing()
    torch.set_num_threads(worker_threads(config.launch, environment.local_world_size))
    in_one_order = deterministic(environment.device) if config.trainer.deterministic else nullcontext()
    try:
        precision = environment.broadcast(_fastest_accurate(environment) if wanted == "auto" else wanted)
        with _matmul_precision(precision), in_one_order:
            yield
    finally:
        torch.set_num_threads(threads)


def hush_tracing() -> None:
    """Keeps torch from warning of how TorchRec asks it whether it traces, as each batch of ids does."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


@contextmanager
def _matmul_precision(wanted: str) -> Iterator[None]:
    """Sets the precision of fp32 matrix products for a run."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fastest_accurate(environment: Environment) -> str:
    """Returns what `auto` is: `medium` where products under it are accurate here (worst row), else `highest`."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=generator).to(environment.device) for _ in range(2))
    with _matmul_precision("medium"):
        rounded, exact = (a @ b.T).double(), a.double() @ b.double().T
    error = ((rounded - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
    return "medium" if error < MATMUL_ERROR else "highest"
