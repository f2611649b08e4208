"""Watches a launch from the process that the user started: progress on the terminal, chatter in logs, peak memory."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from shardrec.sharding.kernels.build import compile_kernels
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import flush_and_exit, launch
from shardrec.trainer.launch.peak_memory import UNSEEN_MEMORY, MemoryMonitor
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder.captured_output import captured_output
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressView
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
    on_memory: Callable[[int], None] = lambda size: None,
    **arguments: Any,
) -> dict[str, Any] | None:
    """Launches `worker`; returns rank 0's result with `peak_memory_bytes` and `wall_seconds`.

    The other ranks of a torchrun end here, unless they are told to stay: then they get None. embedded: in a process
    that is not the command's own, whose output stays where it is. on_memory: is told what the run's processes on this
    machine take, in bytes, every two seconds. Raises UserError as `launch` does.
    """
    began = time.monotonic()
    if config.launch.device != "cuda":
        compile_kernels()  # at first use, which is said where the user sees it
    if leads():
        folder.error_file.unlink(missing_ok=True)  # an earlier command's
    log = folder.logs / ("driver.log" if leads() else f"rank-{os.environ['RANK']}.log")
    captured = nullcontext(sys.stderr) if embedded else captured_output(log)
    with MemoryMonitor({_root()}, on_sample=on_memory) as memory, captured as terminal:
        console = messages(terminal)
        try:
            with ProgressView(folder.logs, console=console, quiet=quiet or not leads()) as view:
                result = launch(worker, config, folder, **arguments)
        finally:
            view.said.show()
    if not leads():
        if not (stays or embedded):
            flush_and_exit(0)
        return None
    peak = memory.peak_bytes + result.pop(UNSEEN_MEMORY, 0)
    return result | {"peak_memory_bytes": peak, "wall_seconds": round(time.monotonic() - began, 2)}
