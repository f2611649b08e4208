"""A whole training run from its checked configuration: inspected, launched, summed up in its run folder."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipeline.errors import UserError
from trainer.config import LaunchConfig, RunConfig
from trainer.environment import Environment
from trainer.inspection import inspect_run
from trainer.launch import choose_backend, flush_and_exit
from trainer.reporting import write_summary
from trainer.run_folder import RunFolder, write_atomically
from trainer.stages import planned_folders, resolve_stages
from trainer.supervision import leads, supervised
from trainer.trainer import train_worker


def train_run(config: RunConfig, *, resume: bool = False, quiet: bool = False) -> dict[str, Any] | None:
    """Trains as `config` says; returns the summary, or None on the further ranks of a torchrun.

    Stages run one after another, once all of them were found to be in order; the summary is the last one's, with those
    of all under `stages`. Raises UserError for what is wrong with the run, before anything is written where that can be
    known; a folder whose run failed before its first checkpoint is removed.
    """
    stages = resolve_stages(config)
    if stages:
        return _train_stages(config, stages, resume=resume, quiet=quiet)
    inspect_run(config)
    return _train(config, resume=resume, quiet=quiet)


def _train(config: RunConfig, *, resume: bool, quiet: bool, stays: bool = False) -> dict[str, Any] | None:
    folder = RunFolder.create(config, resume=resume) if leads() else RunFolder.awaited(config)
    try:
        summary = supervised(train_worker, config, folder, quiet=quiet, stays=stays)
    except UserError:
        if leads() and not resume and folder.failure() and not folder.steps():
            folder.discard()
        raise
    if summary:
        write_summary(folder, summary)
    return summary


def _train_stages(
    config: RunConfig, stages: Mapping[str, RunConfig], *, resume: bool, quiet: bool
) -> dict[str, Any] | None:
    """Stages that are finished are skipped on resume, all but the last, which goes on as any run does."""
    whole, last = RunFolder(Path(config.run)), list(stages)[-1]
    _check_folder(whole, resume)
    folders = {name: RunFolder(Path(stage.run)) for name, stage in stages.items()}
    finished = {n: s for n, f in folders.items() if resume and n != last and (s := f.summary()) is not None}
    left = {name: stage for name, stage in stages.items() if name not in finished}
    for stage in left.values():
        inspect_run(stage, planned_folders(left))
    if leads():
        whole.path.mkdir(parents=True, exist_ok=True)
        write_atomically(whole.stages_file, config.dump())
        whole.summary_file.unlink(missing_ok=True)
    summaries: dict[str, Any] = dict(finished)
    with _kept_group(config.launch):
        for name, stage in left.items():
            try:
                summaries[name] = _train(stage, resume=resume, quiet=quiet, stays=True)
            except UserError:
                if leads() and not any(f.path.exists() for f in folders.values()):
                    whole.stages_file.unlink()
                    whole.path.rmdir()
                raise
            gc.collect()  # a stage's tables hang in cycles; the next stage needs the memory
    if not leads():
        flush_and_exit(0)
    summary = summaries[last] | {"stages": {name: summaries[name] for name in stages}}
    write_summary(whole, summary)
    return summary


def _check_folder(whole: RunFolder, resume: bool) -> None:
    """Raises UserError where the folder of a run of stages holds something else, or such a run already."""
    if not leads() or not whole.path.exists():
        return
    if whole.config_file.exists():
        raise UserError(f"{whole.path}: holds a run without stages; name another `run`")
    if whole.stages_file.exists():
        if not resume:
            raise UserError(f"{whole.path}: holds a run already; continue it with --resume, or name another `run`")
    elif not whole.path.is_dir() or any(whole.path.iterdir()):
        raise UserError(f"{whole.path}: not a run folder and not empty; name another `run`")


@contextmanager
def _kept_group(launch: LaunchConfig) -> Iterator[None]:
    """Under torchrun all stages share one process group: its store would give a second one the first's addresses."""
    if choose_backend(launch) != "torchrun":
        yield
        return
    Environment.from_variables(launch.device).join(launch.timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()
