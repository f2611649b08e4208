"""A run on a local Ray waits for two things that are started here side by side: Ray, and its own imports."""

import importlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.launch.cores import cluster_address


@contextmanager
def started_early(launches: Sequence[LaunchConfig], module: str, check: Callable[[], None]) -> Iterator[None]:
    """Starts a local Ray where all `launches` are for one, while a thread imports `module`, which comes next.

    check: raises UserError for what can be known before; then nothing is started. Ray is stopped at the end, and what
    it prints is kept away from the terminal. Nothing is started where it is not known without torch that a local Ray
    is asked for; where Ray does not start, the launch will say so.
    """
    if not all(map(_is_for_local_ray, launches)):
        check()
        yield
        return
    with _started(launches, module, check):
        yield


def _is_for_local_ray(launch: LaunchConfig) -> bool:
    """Returns whether a launch asks for a local Ray, by its backend or by its number of workers."""
    elsewhere = cluster_address(launch) or "MASTER_ADDR" in os.environ
    several = launch.backend == "auto" and (launch.most_workers or 1) > 1
    return not elsewhere and launch.workers is not None and (launch.backend == "ray" or several)


@contextmanager
def _started(launches: Sequence[LaunchConfig], module: str, check: Callable[[], None]) -> Iterator[None]:
    checked: Future[None] = Future()
    importing = threading.Thread(target=_import, args=(module, check, checked), name="imports", daemon=True)
    importing.start()
    from shardrec.trainer.launch.running_ray import kept_ray

    checked.result()
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shardrec-ray-"))) / "ray.log"
        with suppress(UserError):
            stack.enter_context(kept_ray(launches, log))
        importing.join()  # one thread at a time imports from here on
        yield


def _import(module: str, check: Callable[[], None], checked: "Future[None]") -> None:
    try:
        check()
    except BaseException as error:
        checked.set_exception(error)
        return
    checked.set_result(None)
    with suppress(Exception):  # whoever needs the module imports it again, and is told
        importlib.import_module(module)
