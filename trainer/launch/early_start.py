"""A run on a local Ray waits for two things that are started here side by side: Ray, and its own imports."""

import importlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import LaunchConfig


@contextmanager
def started_early(launches: Sequence[LaunchConfig], module: str) -> Iterator[None]:
    """Starts a local Ray where all `launches` are for one, while a thread imports `module`, which comes next.

    Ray is stopped at the end, and what it prints is kept away from the terminal. Nothing is started where it is not
    known without torch that a local Ray is asked for; where Ray does not start, the launch will say so.
    """
    with ExitStack() as stack:
        if all(map(_is_for_local_ray, launches)):
            stack.enter_context(_started(launches, module))
        yield


def _is_for_local_ray(launch: LaunchConfig) -> bool:
    """Returns whether a launch asks for a local Ray, by its backend or by its number of workers."""
    elsewhere = launch.address or os.environ.get("RAY_ADDRESS") or "MASTER_ADDR" in os.environ
    several = launch.backend == "auto" and (launch.workers or 1) > 1
    return not elsewhere and launch.workers is not None and (launch.backend == "ray" or several)


@contextmanager
def _started(launches: Sequence[LaunchConfig], module: str) -> Iterator[None]:
    importing = threading.Thread(target=_import, args=(module,), name="imports", daemon=True)
    importing.start()
    from shardrec.trainer.launch.running_ray import kept_ray

    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shardrec-ray-"))) / "ray.log"
        with suppress(UserError):
            stack.enter_context(kept_ray(launches, log))
        importing.join()  # one thread at a time imports from here on
        yield


def _import(module: str) -> None:
    with suppress(Exception):  # whoever needs the module imports it again, and is told
        importlib.import_module(module)
