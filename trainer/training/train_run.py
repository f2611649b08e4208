"""A whole training run is inspected, launched and summed up in its run folder; stages run one after another."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import by_stage_names, planned_folders, resolve_stages
from shardrec.trainer.config.trust import note
from shardrec.trainer.launch.backends import choose_backend, flush_and_exit
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.freed_memory import give_back_freed_memory
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.launch.torchrun import is_elsewhere, leads
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.launches import LaunchLog
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.run_folder.reporting import write_summary
from shardrec.trainer.run_folder.stop_request import forget_requests
from shardrec.trainer.run_folder.synced import fetch, forget, in_step, push, send
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.tracking.tracked import tracked
from shardrec.trainer.training.inspection import inspect_run
from shardrec.trainer.training.resuming import check_stages_folder
from shardrec.trainer.training.taking_up import finished_summary, taken_up
from shardrec.trainer.training.train_worker import train_worker

AtEnd = Callable[[Path], None]
"""What is to be done with the folder of a run that is finished."""


def train_run(
    config: RunConfig,
    *,
    resume: bool = False,
    step: int | None = None,
    quiet: bool = False,
    embedded: bool = False,
    began: float | None = None,
    group: Path | None = None,
    at_end: AtEnd | None = None,
) -> dict[str, Any] | None:
    """Trains as `config` says; returns the summary, or None on the further ranks of a torchrun.

    resume: as `resuming.resumes` decided. step: the checkpoint to go on from; later ones are set aside. None: the
    newest one that is whole. embedded: in a process that is not the command's own: its output is left alone, and no
    rank is ended.

    Stages run one after another, once all of them were found to be in order; the summary is the last one's, with those
    of all under `stages`. Raises UserError for what is wrong with the run, before anything is written where that can be
    known, and where another process trains in the folder; a folder whose run failed before its first checkpoint is
    removed. A run that is finished, with nothing left to train, stays as it is.

    began: from when times count, in seconds of the epoch: when the command was started; default: now. group: the folder
    of the runs that this one belongs to, for trackers. at_end: called with the run folder (of stages with each one's)
    once its summary is written, before trackers take what is left.
    """
    stages = resolve_stages(config)
    if stages:
        return _train_stages(
            config, stages, resume=resume, quiet=quiet, embedded=embedded, began=began, group=group, at_end=at_end
        )
    began = began or time.time()
    blueprint = inspect_run(config)
    return _train(
        blueprint, resume=resume, step=step, quiet=quiet, embedded=embedded, began=began, group=group, at_end=at_end
    )


def _train(
    blueprint: Blueprint,
    *,
    resume: bool,
    quiet: bool,
    began: float,
    step: int | None = None,
    stays: bool = False,
    embedded: bool = False,
    group: Path | None = None,
    at_end: AtEnd | None = None,
) -> dict[str, Any] | None:
    config, name = blueprint.config, command_name("train")
    with ExitStack() as stack:
        if leads():
            stack.enter_context(locked(config.run_folder, name))
            stack.enter_context(in_step(config.run_folder))
            folder = stack.enter_context(taken_up(config, name, resume=resume, step=step))
            push(folder.path)
        else:
            folder = stack.enter_context(own_logs(RunFolder.awaited(config), name, leads=False))
        done = finished_summary(blueprint, folder) if leads() and resume and step is None else None
        if done is not None and choose_backend(config.launch) != "torchrun":
            return _left_alone(folder, done)
        if leads() and done is None:
            stack.enter_context(tracked(config, folder, group))
        log = LaunchLog(folder, embedded=embedded) if leads() and done is None else None
        summary = supervised(
            train_worker if done is None else partial(train_worker, is_finished=True), config, folder, quiet=quiet,
            stays=stays, embedded=embedded, blueprint=blueprint, ends_in_order=True,
            on_memory=log.memory if log else lambda size: None,
        )  # fmt: skip
        if done is not None:
            return _left_alone(folder, done)
        if log:
            log.close()
        if summary:
            if (at := summary.pop("first_step_at")) is not None:
                summary["seconds_to_first_step"] = round(at - began, 2)
            summary["wall_seconds"] = round(time.time() - began, 2)
            summary["finished"] = True
            write_summary(folder, summary)
            forget_requests(folder.path)  # that came too late
            if at_end is not None:
                at_end(folder.path)
        return summary


def _left_alone(folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary of a finished run as it is, and says so."""
    line = f"{folder.address}: finished at step {summary['steps']} and left as it is; trainer.epochs may give it more"
    messages().print(line, markup=False, soft_wrap=True)
    return summary


def _train_stages(
    config: RunConfig,
    stages: Mapping[str, RunConfig],
    *,
    resume: bool,
    quiet: bool,
    embedded: bool,
    began: float | None,
    group: Path | None,
    at_end: AtEnd | None,
) -> dict[str, Any] | None:
    """Stages that are finished are skipped on resume, all but the last, which goes on as any run does."""
    whole, name = RunFolder(config.run_folder), command_name("train")
    with ExitStack() as stack:
        if leads():
            check_stages_folder(whole, stages, resume=resume)
            stack.enter_context(locked(whole.path, name))
            stack.enter_context(in_step(whole.path))
            check_stages_folder(whole, stages, resume=resume)
        elif is_elsewhere():
            fetch(whole.path)
        ranks = stack.enter_context(_together(stages))
        return _train_each(
            config, stages, whole, ranks,
            resume=resume, quiet=quiet, embedded=embedded, began=began, group=group or whole.path, at_end=at_end,
        )  # fmt: skip


def _train_each(
    config: RunConfig,
    stages: Mapping[str, RunConfig],
    whole: RunFolder,
    ranks: Environment,
    *,
    resume: bool,
    quiet: bool,
    embedded: bool,
    began: float | None,
    group: Path,
    at_end: AtEnd | None,
) -> dict[str, Any] | None:
    last = list(stages)[-1]
    folders = {name: RunFolder(stage.run_folder) for name, stage in stages.items()}
    # rank 0 says which are finished: others may look at older files, and all have to train the same stages
    finished = ranks.broadcast({n: s for n, f in folders.items() if resume and (s := f.summary()) is not None})
    for name, stage in stages.items() if resume else ():
        _check_stage(name, stage, finished, folders, is_last=name == last)
    finished.pop(last, None)
    left = {name: stage for name, stage in stages.items() if name not in finished}
    blueprints = {name: inspect_run(stage, planned_folders(left)) for name, stage in left.items()}
    if leads():
        whole.path.mkdir(parents=True, exist_ok=True)
        write_atomically(whole.stages_file, config.dump())
        send(whole.stages_file)
        note(config.model_dump(mode="json", by_alias=True), whole.path)
        forget(whole.summary_file)
    summaries: dict[str, Any] = dict(finished)
    try:
        with one_ray(left.values(), whole.logs / "driver.log"):
            for name in left:
                summaries[name] = _train(
                    blueprints.pop(name),
                    resume=resume and RunFolder(stages[name].run_folder).config_file.exists(),
                    quiet=quiet,
                    began=began or time.time(),
                    stays=True,
                    embedded=embedded,
                    group=group,
                    at_end=at_end,
                )
                began = None  # a later stage begins when the one before it is over
                give_back_freed_memory()  # the next stage needs it
    except (UserError, KeyboardInterrupt, OSError):
        if leads() and not resume and not any(f.path.exists() for f in folders.values()):
            whole.discard()
        raise
    if not leads():
        if not embedded:
            flush_and_exit(0)
        return None
    summary = summaries[last] | {"stages": {name: summaries[name] for name in stages}}
    write_summary(whole, summary)
    return summary


def _check_stage(
    name: str, stage: RunConfig, finished: Container[str], folders: Mapping[str, RunFolder], *, is_last: bool
) -> None:
    """Raises UserError for a finished stage of other settings, and for one begun before what it starts from is done."""
    folder = folders[name]
    if name in finished and not is_last:
        before = load(folder.config_file)
        if found := first_difference(by_stage_names(before), by_stage_names(stage), free=("launch",)):
            raise UserError(
                f"stage {name} is finished with {found.key} {found.before}, now {found.now}; name another run, or "
                "remove its folder and those after it"
            )
    sources = {source.run for source in stage.init_from}
    missing = [n for n, f in folders.items() if f.address in sources and n not in finished]
    if missing and folder.steps():
        raise UserError(
            f"stage {name} has checkpoints, but stage {missing[0]}, which it starts from, is not finished; put "
            f"{folders[missing[0]].address} back if it was moved, else remove {folder.address}, or name another run"
        )


@contextmanager
def _together(stages: Mapping[str, RunConfig]) -> Iterator[Environment]:
    """Yields the ranks of a torchrun, who stay together through all stages; elsewhere this process alone.

    A process group for each stage would give the second one the addresses of the first.
    """
    launch = next(iter(stages.values())).launch
    if choose_backend(launch) == "torchrun":
        ranks = Environment.from_variables(launch.device)
        with ranks.group(launch.timeout):
            yield ranks
    else:
        yield Environment.from_variables("cpu")


@contextmanager
def one_ray(stages: Iterable[RunConfig], log: Path) -> Iterator[None]:
    """Keeps one Ray, which takes long to start, where several stages run on it. What it prints goes to `log`."""
    on_ray = [stage.launch for stage in stages if choose_backend(stage.launch) == "ray"]
    if len(on_ray) > 1 and len({launch.address for launch in on_ray}) == 1:
        from shardrec.trainer.launch.running_ray import kept_ray  # a machine without Ray can still run in-process

        with kept_ray(on_ray, log):
            yield
    else:
        yield
