"""Runs workers on Ray, by Ray Train.

All workers restart together when one dies, and the worker function runs from the top; what it resumes from is the run
folder's newest complete checkpoint, never Ray's own notion of one (which lags behind the disk).
"""

import os
import pickle
import pkgutil
import re
import shutil
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.exceptions import RayActorError
from ray.train import ControllerError
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR as START_TIMEOUT
from ray.train.v2._internal.constants import WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR as ANSWER_TIMEOUT
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2.api.config import FailureConfig, ScalingConfig

from shardrec.data_pipeline.errors import LoggedError, UserError, shortened
from shardrec.data_pipeline.local_ray import variables
from shardrec.data_pipeline.stores.location import is_store_uri
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.config.import_path import make_importable
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.capacity import Capacity, can_grow, no_room
from shardrec.trainer.launch.cores import worker_count
from shardrec.trainer.launch.elastic import ElasticPolicy
from shardrec.trainer.launch.environment import Environment, device_kind, resolve_device
from shardrec.trainer.launch.last_words import LastWords, forget, last_words, left, way_on
from shardrec.trainer.launch.leaving import RegroupError, watch_for
from shardrec.trainer.launch.ray_train import Trainer
from shardrec.trainer.launch.ray_watch import watched
from shardrec.trainer.launch.restarts import Restarts
from shardrec.trainer.launch.running_ray import is_ours, running_ray
from shardrec.trainer.launch.worker import Worker, run_worker
from shardrec.trainer.run_folder.captured_output import captured_output
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import failure_left, leave_failure, leave_result, result_left
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.run_folder.synced import fetch, push

LEAST_ANSWER_SECONDS = 30.0
"""Ray asks workers whether they are well, each half second; one that does not answer for `launch.timeout` is frozen."""

SOON_AFTER_A_LOSS = 60.0
"""Seconds after which an elastic run looks again for room: a machine may be lost before Ray knows it."""


def launch_on_ray(worker: Worker, config: RunConfig, folder: RunFolder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `worker` on `config.launch.workers` Ray workers. Raises UserError as `launch` does."""
    device = device_kind(config.launch.device)
    # what `auto` is has been decided: workers elsewhere may see other devices
    launch = config.launch.model_copy(update={"device": device})
    config = config.model_copy(update={"launch": launch})
    try:
        with running_ray(launch, worker_count(launch)):
            return _fitted(worker, config, folder, arguments)
    except UserError as error:
        leave_failure(folder, error)
        raise


def _fitted(worker: Worker, config: RunConfig, folder: RunFolder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    storage = folder.logs / "ray"
    folder.result_file.unlink(missing_ok=True)
    capacity = _capacity(config.launch)
    grows = _say_whether_there_is_room(capacity, folder)
    answer = max(config.launch.timeout, LEAST_ANSWER_SECONDS)
    timeouts = {START_TIMEOUT: str(_patience(config.launch)), ANSWER_TIMEOUT: str(answer)}
    with _probe(folder) as probe, variables(timeouts):
        job = {
            "worker": f"{worker.__module__}:{worker.__qualname__}",  # Ray's controller, too, would import a function
            "config": config.model_dump(mode="json", by_alias=True),
            "folder": str(folder.path),
            "logs": str(folder.logs),
            "probe": str(probe),
            "is_local": is_ours(),
            "arguments": pickle.dumps(dict(arguments)),  # for the workers alone to unpack
        }
        try:
            with watched(folder.logs, config.launch.timeout) if is_ours() else nullcontext():
                _trainer(config.launch, storage, job, grows=grows).fit()
        except UserError:
            raise
        except ControllerError as error:
            traceback.print_exc()
            if isinstance(error.controller_failure, UserError):
                raise error.controller_failure from None
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise no_room(_capacity(config.launch), config.launch.start_timeout) from None
            raise _cause(folder, error) from None
        except Exception as error:
            traceback.print_exc()
            raise _cause(folder, error) from None
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    if stopped := failure_left(folder):
        raise stopped
    return result_left(folder)


def _say_whether_there_is_room(capacity: Capacity, folder: RunFolder) -> bool:
    """Says what is missing, where workers will have to wait for it; returns whether the cluster may grow for them.

    Raises UserError where a Ray of our own lacks it, on which nothing will come free, and where no machine of a cluster
    that stays as it is has enough for one worker.
    """
    if is_ours():  # what an earlier stage's workers have may not count as free yet
        if not capacity.fits:
            plain = capacity.each.keys() <= {"CPU", "GPU"} and not capacity.strategy.startswith("STRICT")
            raise UserError(f"launch.workers: {capacity} on this machine; {_REMEDY if plain else _REMEDY_FOR_OTHERS}")
        return False
    grows = can_grow()
    if capacity.lacking is not None and not grows and capacity.each not in ({"CPU": 1}, {"GPU": 1}):
        raise UserError(
            f"launch.resources: {capacity}, as no machine of the cluster has enough {capacity.lacking}; ask for less, "
            "or start machines that have it"
        )
    if capacity.missing:
        awaited = "the cluster to grow" if grows else "room on the cluster"
        ProgressFile(folder.logs).phase(f"waiting for {awaited}: {capacity}")
    return grows


_REMEDY = "ask for fewer, or set launch.device to cpu"
_REMEDY_FOR_OTHERS = "leave launch.resources out: a local Ray has one machine's CPUs, GPUs and memory"


def _of_worker(launch: LaunchConfig) -> dict[str, float]:
    """Returns what each worker asks Ray for. Raises UserError for what no worker has a use for."""
    try:
        return launch.resources.of_worker(use_gpu=launch.device == "cuda")
    except ValueError as error:
        raise UserError(f"launch.resources: {error}") from None


def _capacity(launch: LaunchConfig) -> Capacity:
    """Returns what Ray has room for, of the fewest workers that a run may have."""
    asked = launch.fewest_workers or worker_count(launch)
    return Capacity.of_ray(asked, _of_worker(launch), launch.resources.strategy)


def _patience(launch: LaunchConfig) -> float:
    """Returns how many seconds a try to start workers may take: of so many as there seems to be room for, not long."""
    patience = launch.start_timeout / (1 + launch.retries)
    return min(patience, SOON_AFTER_A_LOSS) if launch.is_elastic else patience


def _trainer(launch: LaunchConfig, storage: Path, job: dict[str, Any], *, grows: bool) -> Trainer:
    most, elastic = worker_count(launch), launch.is_elastic and not is_ours()
    scaling = ScalingConfig(
        num_workers=(launch.fewest_workers or 1, most) if elastic else most,
        use_gpu=launch.device == "cuda",
        resources_per_worker=_of_worker(launch),
        placement_strategy=launch.resources.strategy,
        elastic_resize_monitor_interval_s=launch.resize_interval,
    )
    # starts that fail, or find no room; an elastic run's policy has a patience of its own
    starts = -1 if grows or elastic else launch.retries
    failures = FailureConfig(max_failures=launch.retries, controller_failure_limit=starts)
    return Trainer(
        _work,
        local=is_ours(),
        scaling=ElasticPolicy(scaling, patience=launch.start_timeout) if elastic else None,
        failures=Restarts(failures, job["folder"]),
        train_loop_config=job,
        scaling_config=scaling,
        run_config=train.RunConfig(
            name=uuid.uuid4().hex,  # a name that was used before would silently resume that run
            storage_path=str(storage),
            failure_config=failures,
        ),
    )


def _cause(folder: RunFolder, error: Exception) -> UserError:
    """Returns what to tell the user: what a worker left, what it raised, or where to look."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    raised = [e for e in failures.values() if isinstance(e, UserError)]
    if known := failure_left(folder) or next(iter(raised), None):
        return known
    words = [*left(folder), *_of_the_dead(failures)]
    words.sort(key=lambda said: said.is_consequence)
    line = words[0].line if words else f"a worker died ({type(error).__name__}: {shortened(str(error))})"
    return LoggedError(f"{line}; Ray's words are in {folder.logs}/driver.log{way_on(folder.logs)}")


def _of_the_dead(failures: Mapping[int, Exception]) -> Iterator[LastWords]:
    """Yields last words on workers that could leave none: their process was ended from outside, or their machine."""
    for rank, failure in failures.items():
        failure = getattr(failure, "health_check_failure", failure)
        if isinstance(failure, WorkerHealthCheckTimeoutError):
            yield LastWords(f"rank {rank} gives no sign of life (launch.timeout): it is frozen, or its machine is gone")
        if not isinstance(failure, RayActorError):
            continue
        told = str(failure)
        pid, ip = (re.search(rf"{what}: *(.*)", told) for what in ("pid", "ip"))
        where = f" (process {pid[1]} on {ip[1]})" if pid and ip else ""
        yield LastWords(
            f"rank {rank}{where} was ended from outside: by a signal, for lack of memory, or with its machine"
        )


@contextmanager
def _probe(folder: RunFolder) -> Iterator[Path]:
    """Yields a file by which workers see that they share the run folder with the launcher."""
    probe = folder.logs / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def _work(job: dict[str, Any]) -> None:
    """Runs on each worker, and again from the top after a restart."""
    config = parse(job["config"], "run")
    folder = _folder_here(config, job)
    if failure_left(folder):
        return  # a restart after an error that another try would only repeat
    environment = _environment(config.launch, is_local=job["is_local"])
    if environment.leads:
        forget(folder)  # of an earlier try; who meets this worker fails later
    watch_for(_is_preempted)
    make_importable(config)
    with captured_output(folder.logs / f"rank-{environment.rank}.log"):
        try:
            worker, arguments = pkgutil.resolve_name(job["worker"]), pickle.loads(job["arguments"])
            returned = run_worker(worker, config, folder, environment, arguments)
        except RegroupError:
            raise
        except Exception as error:
            traceback.print_exc()
            if not isinstance(error, UserError):
                _leave_last_words(error, config, folder, environment)
            raise
        finally:
            if folder.elsewhere and environment.local_rank == 0:
                with suppress(StoreError):
                    push(folder.path)
    if environment.leads:
        leave_result(folder, returned)


def _folder_here(config: RunConfig, job: Mapping[str, Any]) -> RunFolder:
    """Returns the launcher's run folder, or, of a run in a store, this machine's mirror. Raises UserError for none."""
    path, logs = Path(job["folder"]), Path(job["logs"])
    if Path(job["probe"]).exists():
        return RunFolder(path, logs)
    if not is_store_uri(config.run):
        host = os.uname().nodename
        raise UserError(
            f"{logs}: not seen from host {host}; `run` must be on storage that all nodes share, or in a store"
        )
    folder = RunFolder(config.run_folder, config.run_folder / logs.relative_to(path), elsewhere=True)
    fetch(folder.path)
    folder.logs.mkdir(parents=True, exist_ok=True)
    return folder


def _is_preempted() -> bool:
    """Says whether the machine of one of the workers is about to be taken away, as Ray has told this one."""
    return get_train_context().preemption_context.preemption_info is not None


def _leave_last_words(error: Exception, config: RunConfig, folder: RunFolder, environment: Environment) -> None:
    rank, size = environment.rank, environment.world_size
    log = folder.logs / f"rank-{rank}.log"
    last_words(error, rank=rank, world_size=size, timeout=config.launch.timeout, log=log).leave(folder, rank)


def _environment(launch: LaunchConfig, *, is_local: bool) -> Environment:
    context = train.get_context()
    local_rank = context.get_local_rank()
    return Environment(
        context.get_world_rank(),
        context.get_world_size(),
        local_rank,
        context.get_local_world_size(),
        resolve_device(launch.device, local_rank),
        unseen_on=None if is_local else ray.get_runtime_context().get_node_id(),
    )
