"""A command on several ranks under torchrun's own agent, in processes that have imported everything.

The agent and the variables that ranks find are those of the command `torchrun`; interpreters of their own, as it starts
them, have the ranks of `training/test_stages.py`.
"""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.processes import forkserver
from tests.trainer.started import command

FORK: Any = multiprocessing.get_context("fork")


def torchrun(world_size: int, logs: Path, *words: object, restarts: int = 0) -> BaseProcess:
    """Starts `shardrec ...` on ranks, whose output goes to RANK.log in the folder `logs`; the agent's process."""
    context = forkserver()
    agent = context.Process(target=_agent, args=(world_size, restarts, logs, [str(word) for word in words]))
    agent.start()
    return agent


def _agent(world_size: int, restarts: int, logs: Path, words: list[str]) -> None:
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=world_size, run_id="test", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=restarts, monitor_interval=0.05, start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
    )  # fmt: skip
    elastic_launch(config, _rank)(logs, words)


def _rank(logs: Path, words: list[str]) -> None:
    """Waits for the command in a process of its own, which may end without returning what the agent waits for."""
    process = FORK.Process(target=_command, args=(logs / f"{os.environ['RANK']}.log", words))
    process.start()
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the command ended with {process.exitcode}")


def _command(log: Path, words: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command(log, words)
