"""A command on several ranks under torchrun's own agent, in processes that have imported everything.

The agent and the variables that ranks find are those of the command `torchrun`; interpreters of their own, as it starts
them, have the ranks of `training/test_stages.py`.
"""

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.processes import forkserver
from tests.trainer.started import command


def torchrun(world_size: int, logs: Path, *words: object, restarts: int = 0) -> BaseProcess:
    """Starts `shardrec ...` on ranks, whose output goes to RANK.log in the folder `logs`; the agent's process."""
    context = forkserver()
    agent = context.Process(target=run_agent, args=(world_size, restarts, logs, [str(word) for word in words]))
    agent.start()
    return agent


def run_agent(world_size: int, restarts: int, logs: Path, words: list[str]) -> None:
    """Runs the agent in this process, to the end of all ranks."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=world_size, run_id="test", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=restarts, monitor_interval=0.05, start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
    )  # fmt: skip
    elastic_launch(config, _rank)(logs, words)


class _Ended(BaseException):
    """The end of a command, of which the agent is to hear as of any function's."""


def _rank(logs: Path, words: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the agent's own, which a fork has
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exit_at_once = os._exit
    os._exit = _ended  # type: ignore[assignment]
    try:
        command(logs / f"{os.environ['RANK']}.log", words)
    except (_Ended, SystemExit) as ended:
        if ended.args[0]:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is said of this error is for the agent alone
            raise RuntimeError(f"the command ended with {ended.args[0]}") from None
    finally:
        os._exit = exit_at_once


def _ended(code: int) -> NoReturn:
    raise _Ended(code)
