"""Runs one worker function on every worker: in this process, under torchrun, or on a Ray cluster by Ray Train.

A worker function takes (config, folder, environment, **arguments) and returns a small dict; rank 0's comes back to the
caller. What workers print goes to the run folder's logs; a `UserError` of any worker reaches the caller as it was.
"""

import json
import os
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Literal

import torch
import torch.distributed as dist

from data_pipeline.errors import UserError
from trainer.config import LaunchConfig, RunConfig, parse
from trainer.environment import Environment, cores, resolve_device, worker_threads
from trainer.packages import append_to_path, shadowed
from trainer.quiet import captured_output
from trainer.run_folder import RunFolder, write_atomically
from trainer.session import default_workers

Worker = Callable[..., dict[str, Any]]
Backend = Literal["in_process", "torchrun", "ray"]

OBJECT_STORE_BYTES = 100 << 20  # training sends nothing through Ray's object store; its own minimum is 75 MiB
SHUTDOWN_SECONDS = 10  # that Ray waits for a process group to close after a worker died


def launch(worker: Worker, config: RunConfig, folder: RunFolder, **arguments: Any) -> dict[str, Any]:
    """Runs `worker` on all workers of `config.launch`; returns rank 0's result.

    Raises UserError as some worker raised it, or one that names the log where a worker died otherwise.
    """
    backend = choose_backend(config.launch)
    if backend == "ray":
        return _on_ray(worker, config, folder, arguments)
    environment = Environment.from_variables(config.launch.device)
    return _run_worker(worker, config, folder, environment, arguments)


def choose_backend(launch: LaunchConfig) -> Backend:
    """torchrun where its variables are set, Ray for several workers or where a cluster is named, else this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "MASTER_ADDR" in os.environ):
        return "torchrun"
    if launch.backend != "auto":
        if launch.backend == "in_process" and (launch.workers or 1) > 1:
            raise UserError(f"launch: in_process runs one worker, {launch.workers} are asked for; use backend: ray")
        return launch.backend
    cluster = launch.address or os.environ.get("RAY_ADDRESS")
    workers = launch.workers or default_workers(resolve_device(launch.device))
    return "ray" if cluster or workers > 1 else "in_process"


def _run_worker(
    worker: Worker, config: RunConfig, folder: RunFolder, environment: Environment, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """One worker's whole life: threads, process group, work, and a line for the launcher if it fails."""
    torch.set_num_threads(worker_threads(config.launch, environment.local_world_size))
    own_group = not dist.is_initialized()
    try:
        environment.join(config.launch.timeout)
        with _matmul_precision(config.trainer.matmul_precision):
            return worker(config, folder, environment, **arguments)
    except UserError as error:
        folder.fail(error)
        raise
    finally:
        if own_group and dist.is_initialized():
            dist.destroy_process_group()


# ---------------------------------------------------------------- Ray


def _on_ray(worker: Worker, config: RunConfig, folder: RunFolder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    # imported here, so that a machine without Ray can run in-process
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    launch, device = config.launch, resolve_device(config.launch.device)
    workers = launch.workers or default_workers(device)
    result_file = folder.logs / "result.json"
    result_file.unlink(missing_ok=True)
    storage = folder.logs / "ray"
    with _ray(launch, workers):
        probe = folder.path / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={
                "worker": worker,
                "config": config.model_dump(mode="json", by_alias=True),
                "folder": str(folder.path),
                "probe": str(probe),
                "arguments": dict(arguments),
            },
            torch_config=TorchConfig(backend="nccl" if device.type == "cuda" else "gloo", timeout_s=int(launch.timeout)),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=device.type == "cuda"),
            run_config=RayRunConfig(
                name=uuid.uuid4().hex,  # a name that was used before would silently resume that run
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=launch.retries),
            ),
        )
        try:
            trainer.fit()
        except Exception:
            traceback.print_exc()
            raise folder.failure() or UserError(
                f"a worker died; its last words are in {folder.logs}/rank-*.log (and Ray's in {folder.logs}/driver.log)"
            ) from None
        finally:
            probe.unlink(missing_ok=True)
            shutil.rmtree(storage, ignore_errors=True)
    if failure := folder.failure():
        raise failure
    return json.loads(result_file.read_text())


@contextmanager
def _ray(launch: LaunchConfig, workers: int) -> Iterator[None]:
    """Joins the cluster that `launch.address` or RAY_ADDRESS names, else starts a local Ray and stops it afterwards."""
    import ray

    address = launch.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", str(SHUTDOWN_SECONDS))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    joined = ray.is_initialized()
    if not joined:
        local = {} if address else {"num_cpus": max(workers, cores()), "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray at {address or 'this machine'} cannot be reached: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def _ray_worker(job: dict[str, Any]) -> None:
    """What Ray Train runs on each worker; restarts run it again from the top."""
    from ray import train

    config, folder = parse(job["config"], "run"), RunFolder(Path(job["folder"]))
    context = train.get_context()
    rank, size, local_rank = context.get_world_rank(), context.get_world_size(), context.get_local_rank()
    local_size = context.get_local_world_size()
    os.environ.update(LOCAL_RANK=str(local_rank), LOCAL_WORLD_SIZE=str(local_size))
    device = resolve_device(config.launch.device, local_rank if torch.cuda.device_count() > 1 else 0)
    environment = Environment(rank, size, local_rank, local_size, device)
    if folder.failure():
        return  # a restart after an error that another try would only repeat
    if not Path(job["probe"]).exists():
        host = os.uname().nodename
        raise UserError(f"{folder.path}: not seen from host {host}; `run` must be on storage that all nodes share")
    if line := shadowed():
        folder.fail(UserError(line))
        raise UserError(line)
    append_to_path(config.import_from)
    with captured_output(folder.logs / f"rank-{rank}.log"):
        try:
            result = _run_worker(job["worker"], config, folder, environment, job["arguments"])
        except Exception:
            traceback.print_exc()
            raise
    if rank == 0:
        write_atomically(folder.logs / "result.json", json.dumps(result))


# ---------------------------------------------------------------- precision


@contextmanager
def _matmul_precision(wanted: str) -> Iterator[None]:
    """Sets the precision of fp32 matrix products for a run. `auto` is "medium" where a check finds it accurate."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted if wanted != "auto" else _fastest_accurate())
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fastest_accurate() -> str:
    """`medium` where this machine's products under it stay within 1e-5 of exact ones (worst row), else `highest`."""
    generator = torch.Generator().manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (torch.randn(256, 512, generator=generator).to(device) for _ in range(2))
    torch.set_float32_matmul_precision("medium")
    found, exact = (a @ b.T).double(), a.double() @ b.double().T
    error = ((found - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
    return "medium" if error < 1e-5 else "highest"


def flush_and_exit(code: int) -> None:
    """Ends this process at once: gloo threads that still hold tensors would abort an ordinary exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
