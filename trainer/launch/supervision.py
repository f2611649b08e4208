"""Watches a launch from the process that the user started: progress on the terminal, chatter in logs, peak memory."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardrec.data_pipeline.errors import LoggedError, UserError
from shardrec.sharding.kernels.build import compile_kernels
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import choose_backend, flush_and_exit, launch
from shardrec.trainer.launch.last_words import forget, last_words, left, way_on
from shardrec.trainer.launch.peak_memory import UNSEEN_MEMORY, MemoryMonitor
from shardrec.trainer.launch.torchrun import end_with_agent, leads
from shardrec.trainer.run_folder.captured_output import captured_output
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressView
from shardrec.trainer.run_folder.signals import termination_deferred
from shardrec.trainer.run_folder.stop_request import ask_to_end, forget_requests
from shardrec.trainer.run_folder.terminal import messages

if TYPE_CHECKING:
    from shardrec.trainer.launch.worker import Worker


def _root() -> int:
    """Returns the process that a run's processes on this machine descend from: torchrun where it launched this one."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ and leads() else os.getpid()


def supervised(
    worker: "Worker",
    config: RunConfig,
    folder: RunFolder,
    *,
    quiet: bool = False,
    stays: bool = False,
    embedded: bool = False,
    ends_in_order: bool = False,
    on_memory: Callable[[int], None] = lambda size: None,
    **arguments: Any,
) -> dict[str, Any] | None:
    """Launches `worker`; returns rank 0's result with `peak_memory_bytes` and `wall_seconds`.

    The other ranks of a torchrun end here, unless they are told to stay: then they get None. embedded: in a process
    that is not the command's own, whose output stays where it is. ends_in_order: workers heed a request to end in the
    run folder, which SIGTERM to the process that launched them on Ray becomes. on_memory: is told what the run's
    processes on this machine take, in bytes, every two seconds. Raises UserError as `launch` does.
    """
    began = time.monotonic()
    if choose_backend(config.launch) == "torchrun" and not embedded:
        end_with_agent()
    if config.launch.device != "cuda":
        compile_kernels()  # at first use, which is said where the user sees it
    if leads():
        folder.error_file.unlink(missing_ok=True)  # an earlier command's
        forget(folder)
    passes_on = ends_in_order and choose_backend(config.launch) == "ray"
    log = folder.logs / ("driver.log" if leads() else f"rank-{os.environ['RANK']}.log")
    captured = nullcontext(sys.stderr) if embedded else captured_output(log)
    with MemoryMonitor({_root()}, on_sample=on_memory) as memory, captured as terminal:
        console = messages(terminal)
        try:
            with (
                ProgressView(folder.logs, console=console, quiet=quiet or not leads()) as view,
                _termination_passed_on(folder) if passes_on else nullcontext(),
            ):
                result = launch(worker, config, folder, **arguments)
        except UserError:
            raise
        except Exception as error:
            if embedded:
                raise
            raise _told(error, config, folder, log) from None
        finally:
            view.said.show()
    if not leads():
        if not (stays or embedded):
            flush_and_exit(0)
        return None
    peak = memory.peak_bytes + result.pop(UNSEEN_MEMORY, 0)
    return result | {"peak_memory_bytes": peak, "wall_seconds": round(time.monotonic() - began, 2)}


@contextmanager
def _termination_passed_on(folder: RunFolder) -> Iterator[None]:
    """Has the first SIGTERM ask the workers to end; nothing of that is left in the folder."""
    with termination_deferred(partial(ask_to_end, folder.path)) as came:
        try:
            yield
        finally:
            if came():
                forget_requests(folder.path)


def _told(error: Exception, config: RunConfig, folder: RunFolder, log: Path) -> UserError:
    """Returns the line of a worker's end, in whose process this is, or of the end that another's was the cause of."""
    traceback.print_exc()
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    words = last_words(error, rank=rank, world_size=world_size, timeout=config.launch.timeout, log=log)
    words.leave(folder, rank)
    return LoggedError(next(left(folder), words).line + way_on(folder.logs))
