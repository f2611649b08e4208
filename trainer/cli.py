"""`shardrec ...`, of which `python -m shardrec` is the same; an error that a user can cause is one line and status 1.

What is imported here is light: each command loads what it needs when it runs.
"""

import os
import sys
import time
import traceback
from functools import cache
from typing import Any

import psutil
import typer
from typer.core import TyperGroup
from typer.main import get_command

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app as prepare
from shardrec.trainer.commands import (
    bench,
    checkpoint,
    compare,
    export,
    ope,
    plan,
    rank,
    report,
    retrieve,
    runs,
    serve,
    simulate,
    tables,
    tune,
)
from shardrec.trainer.commands.arguments import check_arguments
from shardrec.trainer.run_folder.signals import end_of
from shardrec.trainer.run_folder.terminal import error_line

THREADS_WAIT = ("GOMP_SPINCOUNT", "100000")
"""Threads that wait for others sleep after so many turns (a fraction of a millisecond). Those that spin on take the
core that the reader, or whoever else is on the machine, needs for the others to come; those that sleep at once wake
late."""

FRESH_SECONDS = 2.0  # of a core, which an interpreter needs less of until it is here


class _Commands(TyperGroup):
    """All commands: what is wrong with an argument is said in the words of their errors alone."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that is asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.replace("Value error, ", "")  # pydantic's, by which typer reads arguments
            raise
        except KeyboardInterrupt as interrupt:  # typer would end without a word
            end_of(interrupt)


app = typer.Typer(
    name="shardrec",
    cls=_Commands,
    help="Trains recommenders whose ID tables outgrow a machine: TorchRec tables, Ray workers, Parquet in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=runs.TrainCommand)(runs.train)
for command in (
    *(compare.compare, compare.contrast, tune.tune),
    *(runs.evaluate, runs.predict, report.report, tables.tables),
    *(rank.calibrate, rank.rank, retrieve.retrieve, retrieve.vectors, export.export, serve.serve),
    *(ope.ope, plan.plan, simulate.simulate),
):
    app.command()(command)
app.add_typer(prepare, name="prepare", help="Makes Parquet and a schema from raw data.")
app.add_typer(checkpoint.app, name="checkpoint", help="Looks into checkpoints, compares them, moves tables out and in.")
app.add_typer(
    bench.app,
    name="bench",
    help="Measures this machine: reader, step, histories, sharding, checkpoints, dynamic ids, bundles.",
)


@cache
def command_line() -> Any:
    """Returns all commands with their options, read from their signatures once a process."""
    return get_command(app)


def main() -> None:
    """Runs the command that the process was called with, and ends the process."""
    os.environ.setdefault(*THREADS_WAIT)  # before torch is imported, here and in the workers that inherit it
    try:
        check_arguments(sys.argv[1:])
        command_line()(obj=_began())
    except (UserError, OSError) as error:  # OSError: a full disk, a path that may not be written
        status = getattr(error, "exit_status", 1)
        _leave_peers(error_line(error), status)
        if status == 1:
            sys.exit(error_line(error))
        print(error_line(error), file=sys.stderr)
        sys.exit(status)
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "shardrec":
            raise
        line = (
            f"needs the Python package {error.name}, which is not installed; in a clone of shardrec `make install` "
            "brings what all commands need"
        )
        _leave_peers(line)
        sys.exit(f"shardrec: error: {line}")
    except Exception:
        _leave_peers(traceback.format_exc())
        raise


def _leave_peers(last_words: str, status: int = 1) -> None:
    """Ends one of several ranks at once: taken down in an orderly way, it would wait for peers, who wait for it.

    They wait in a collective, and NCCL's do so for minutes; torchrun ends them as soon as this one is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ:
        from shardrec.trainer.launch.backends import flush_and_exit

        print(last_words.rstrip(), file=sys.stderr)
        flush_and_exit(status)


def _began() -> float:
    """Returns when the command was started, in seconds of the epoch.

    That is when its process was, or the torchrun above it; but for a program that has computed for a while: it calls
    this one now.
    """
    if time.process_time() > FRESH_SECONDS:
        return time.time()
    pid = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    return psutil.Process(pid).create_time()


if __name__ == "__main__":
    main()
