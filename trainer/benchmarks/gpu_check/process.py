"""A section's process: a section may hang, or take its process and the GPU's context with it, and the others go on.

A process is started while the section before it runs, and has imported everything when its turn comes. It leads a
group, so that what it started ends with it.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.gpu_check.record import Found
from shardrec.trainer.benchmarks.gpu_check.sections.task import Task
from shardrec.trainer.launch.parent import end_with_parent

SECTIONS = "shardrec.trainer.benchmarks.gpu_check.sections"
PRELOADED = "shardrec.trainer.training.trainer"
"""Takes seconds to import, and no GPU."""
TAIL = 15
"""Lines that are kept of a traceback."""


class SectionProcess:
    """One process for one section, named when it is to begin. log: what it prints goes there."""

    def __init__(self, log: Path, stacks: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._stacks = stacks
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, log, stacks))
        self._process.start()
        theirs.close()

    def run(self, found: Found, task: Task, on_figure: Callable[[], None]) -> None:
        """Runs a section for as long as its task says; `found` has its state, figures and error in the end.

        on_figure: is called when there is one more.
        """
        began = time.monotonic()
        try:
            self._end.send((f"{SECTIONS}.{found.name}", task))
            while found.state == "running":
                if not self._end.poll(max(0.0, began + task.seconds - time.monotonic())):
                    found.traceback = self._stack()
                    found.state, found.error = "stopped", f"took longer than {task.seconds:.0f} s"
                    break
                self._take(found, self._end.recv())
                on_figure()
        except (EOFError, OSError):  # it died, and so does the pipe
            self._process.join(5)
            found.state, found.error = "failed", f"its process ended by {_ending(self._process.exitcode)}; see log.txt"
            found.traceback = self._stack(asks=False)
        finally:
            found.seconds = round(time.monotonic() - began, 1)
            self.end()

    def end(self) -> None:
        """Ends the process and all that it started."""
        if self._process.pid is not None and self._process.is_alive():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it leads no group yet
                self._process.kill()
        self._process.join()
        self._end.close()

    @staticmethod
    def _take(found: Found, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "figure":
            found.figures[rest[0]] = rest[1]
        elif kind == "failed":
            found.state, (found.error, found.traceback) = "failed", rest
        else:
            found.state = "passed"

    def _stack(self, *, asks: bool = True) -> list[str]:
        """Returns where its threads are, or were when it died."""
        if asks and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(1.0)
        try:
            lines = self._stacks.read_text().splitlines()
        except OSError:
            return []
        return [line for line in lines if "site-packages" not in line and "/lib/python" not in line][-2 * TAIL :]


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"code {code}"


def _serve(end: Connection, log: Path, stacks: Path) -> None:
    """Waits for a section and runs it; what it finds goes through the pipe."""
    os.setsid()
    end_with_parent()
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    where = stacks.open("w")  # as long as the process
    faulthandler.enable(where)
    faulthandler.register(signal.SIGUSR1, where, all_threads=True)
    code = 0
    try:
        import_module(PRELOADED)
        module, task = end.recv()
        print(f"---- {module.rpartition('.')[2]}", flush=True)
        import_module(module).run(task, lambda figure, value: end.send(("figure", figure, value)))
        end.send(("passed",))
    except EOFError:  # the check ended before its turn
        pass
    except BaseException as error:
        traceback.print_exc()
        end.send(("failed", _line(error), _tail(error)))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of gloo and NCCL may hold tensors


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:1000]


def _tail(error: BaseException) -> list[str]:
    """Returns the end of a traceback; a UserError's line says all."""
    if isinstance(error, UserError):
        return []
    return "".join(traceback.format_exception(error)).splitlines()[-TAIL:]
