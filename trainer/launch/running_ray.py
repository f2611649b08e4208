"""Starts and stops a local Ray to run on, or joins a cluster."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.local_ray import SET_BY_RAY, local_ray, put_back, variables
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.launch.cores import cluster_address, cores, worker_count
from shardrec.trainer.run_folder.captured_output import captured_output

INHERITED = ("GOMP_SPINCOUNT",)  # what a cluster's workers are told
LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # 110 MB, to watch nodes that may go
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # instead of 2 s: how soon an end, or a death, is seen
    "RAY_prestart_worker_first_driver": "0",  # processes that wait for tasks, where all is actors
}
"""Environment variables of a local Ray, which may be set otherwise."""

QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""As Ray's next release does by itself; it warns until then."""

_OURS = "shardrec-local"  # the namespace of a Ray that was started here


def is_ours() -> bool:
    """Returns whether the Ray that runs was started here, so that it ends with its runs and nobody else is on it."""
    return bool(ray.get_runtime_context().namespace == _OURS)


@contextmanager
def kept_ray(launches: Sequence[LaunchConfig], log: Path) -> Iterator[None]:
    """Keeps one Ray for several launches of one address in turn; what is printed as it comes and goes is in `log`."""
    with ExitStack() as stack:
        with captured_output(log):
            stack.enter_context(running_ray(launches[0], max(map(worker_count, launches))))
        try:
            yield
        finally:
            with captured_output(log):
                stack.close()


@contextmanager
def running_ray(launch: LaunchConfig, workers: int) -> Iterator[None]:
    """Joins the cluster that `launch.address` or RAY_ADDRESS names, else starts a local Ray and stops it afterwards.

    Where a Ray is running in this process already, that is used and left running.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address(launch)
    termination = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        try:
            stack.enter_context(_joined(address) if address else _started(workers))
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, termination)  # Ray's own handlers would end the process there and then
        except UserError:
            raise
        except Exception as error:  # Ray raises all kinds of them
            raise _unreachable(address, error) from None
        yield


def _unreachable(address: str | None, error: Exception) -> UserError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if address:
        token = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here"
        return UserError(f"Ray at {address} cannot be reached: {cause}; {token}")
    logs = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray/session_latest/logs")
    return UserError(
        f"a local Ray does not start: {cause}; its servers' words are in {logs}, and it needs room and rights in "
        f"{logs.parents[2]} (RAY_TMPDIR), memory and processes"
    )


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """Joins a cluster, with the token that this process's environment or home has, where the cluster asks for one."""
    inherited = {"env_vars": {k: os.environ[k] for k in INHERITED if k in os.environ}}
    with put_back(*SET_BY_RAY), variables(_unset(QUIET)):
        ray.init(address=address, log_to_driver=False, runtime_env=inherited)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _started(workers: int) -> Iterator[None]:
    with variables(_unset(QUIET | LOCAL_SETTINGS)), local_ray(max(workers, cores()), namespace=_OURS):
        yield


def _unset(settings: Mapping[str, str]) -> dict[str, str | None]:
    """Returns the environment variables that are not set otherwise already."""
    return {name: value for name, value in settings.items() if name not in os.environ}
