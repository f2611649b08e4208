"""Workers on Ray, by Ray Train's TorchTrainer: a local Ray that is started and stopped, or a cluster.

All workers restart together when one dies, and the worker function runs from the top; what it resumes from is the run
folder's newest complete checkpoint, never Ray's own notion of one (which lags behind the disk).
"""

import json
import os
import pickle
import pkgutil
import shutil
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.import_path import append_to_path
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.sections import LaunchConfig, RunConfig
from shardrec.trainer.launch.captured_output import captured_output
from shardrec.trainer.launch.environment import Environment, cores, default_workers, resolve_device
from shardrec.trainer.launch.worker import Worker, run_worker
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder

OBJECT_STORE_BYTES = 100 << 20  # training sends nothing through Ray's object store; its own minimum is 75 MiB
INHERITED = ("GOMP_SPINCOUNT", "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S")  # what a cluster's workers are told
SHUTDOWN_SECONDS = 10  # that Ray waits for a process group to close after a worker died


def launch_on_ray(worker: Worker, config: RunConfig, folder: RunFolder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `worker` on `config.launch.workers` Ray workers. Raises UserError as `launch` does."""
    result_file, storage = folder.logs / "result.json", folder.logs / "ray"
    result_file.unlink(missing_ok=True)
    workers = _workers(config.launch)
    with running_ray(config.launch, workers), _probe(folder) as probe:
        job = {
            "worker": f"{worker.__module__}:{worker.__qualname__}",  # Ray's controller, too, would import a function
            "config": config.model_dump(mode="json", by_alias=True),
            "folder": str(folder.path),
            "probe": str(probe),
            "arguments": pickle.dumps(dict(arguments)),  # for the workers alone to unpack
        }
        try:
            _trainer(config.launch, workers, storage, job).fit()
        except Exception as error:
            traceback.print_exc()
            raise _cause(folder, error) from None
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    if failure := folder.failure():
        raise failure
    return json.loads(result_file.read_text())


def _trainer(launch: LaunchConfig, workers: int, storage: Path, job: dict[str, Any]) -> TorchTrainer:
    cuda = resolve_device(launch.device).type == "cuda"
    return TorchTrainer(
        _work,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo", timeout_s=int(launch.timeout)),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=cuda),
        run_config=train.RunConfig(
            name=uuid.uuid4().hex,  # a name that was used before would silently resume that run
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=launch.retries),
        ),
    )


def _cause(folder: RunFolder, error: Exception) -> UserError:
    """What to tell the user: what a worker left, what it raised, or where to look."""
    raised = [e for e in getattr(error, "worker_failures", {}).values() if isinstance(e, UserError)]
    return (
        folder.failure()
        or next(iter(raised), None)
        or UserError(
            f"a worker died ({type(error).__name__}); its last words are in {folder.logs}/rank-*.log, Ray's in "
            f"{folder.logs}/driver.log; --resume goes on from the last checkpoint"
        )
    )


@contextmanager
def kept_ray(launches: Sequence[LaunchConfig], log: Path) -> Iterator[None]:
    """One Ray for several launches in turn, all of one address; what is printed as it comes and goes is in `log`."""
    with ExitStack() as stack:
        with captured_output(log):
            stack.enter_context(running_ray(launches[0], max(map(_workers, launches))))
        try:
            yield
        finally:
            with captured_output(log):
                stack.close()


def _workers(launch: LaunchConfig) -> int:
    return launch.workers or default_workers(resolve_device(launch.device))


@contextmanager
def running_ray(launch: LaunchConfig, workers: int) -> Iterator[None]:
    """Joins the cluster that `launch.address` or RAY_ADDRESS names, else starts a local Ray and stops it afterwards.

    Where a Ray is running in this process already, that is used and left running.
    """
    if ray.is_initialized():
        yield
        return
    address = launch.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", str(SHUTDOWN_SECONDS))
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # as Ray's next release does, which warns until then
    inherited = {"env_vars": {k: os.environ[k] for k in INHERITED if k in os.environ}}
    try:
        if address:
            ray.init(address=address, log_to_driver=False, runtime_env=inherited)
        else:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # 110 MB, to watch nodes that may go
            ray.init(
                address="local",
                num_cpus=max(workers, cores()),  # fewer than workers, and they would wait for ever
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"Ray at {address or 'this machine'} cannot be reached: {cause}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _probe(folder: RunFolder) -> Iterator[Path]:
    """A file by which workers see that they share the run folder with the launcher."""
    probe = folder.path / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def _work(job: dict[str, Any]) -> None:
    """What Ray Train runs on each worker; restarts run it again from the top."""
    config, folder = parse(job["config"], "run"), RunFolder(Path(job["folder"]))
    if not Path(job["probe"]).exists():
        host = os.uname().nodename
        raise UserError(f"{folder.path}: not seen from host {host}; `run` must be on storage that all nodes share")
    if folder.failure():
        return  # a restart after an error that another try would only repeat
    environment = _environment(config.launch)
    append_to_path(config.import_from)
    with captured_output(folder.logs / f"rank-{environment.rank}.log"):
        try:
            worker, arguments = pkgutil.resolve_name(job["worker"]), pickle.loads(job["arguments"])
            result = run_worker(worker, config, folder, environment, arguments)
        except Exception:
            traceback.print_exc()
            raise
    if environment.leads:
        write_atomically(folder.logs / "result.json", json.dumps(result))


def _environment(launch: LaunchConfig) -> Environment:
    context = train.get_context()
    local_rank, local_world_size = context.get_local_rank(), context.get_local_world_size()
    os.environ.update(LOCAL_RANK=str(local_rank), LOCAL_WORLD_SIZE=str(local_world_size))  # TorchRec reads them
    device = resolve_device(launch.device, local_rank if torch.cuda.device_count() > 1 else 0)
    return Environment(context.get_world_rank(), context.get_world_size(), local_rank, local_world_size, device)
