"""Runs a function in N processes that form a gloo process group, as the ranks of a run do.

The processes are forked from a server that has imported everything already, which takes as long as most tests. The
server starts with the first call and has one thread and no torch threads, so that a fork of it is whole.

A process of TorchRec on gloo may abort while its interpreter is taken down (a worker thread of gloo then needs the
GIL); the work is done by then but the exit code is wrong. So each process ends by `os._exit` after a last barrier.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

PRELOADED = (
    "torch", "torchrec", "pandas", "shardrec.trainer.training.train_run", "tests.sharding.everywhere", "tests.frozen",
)  # fmt: skip
"""What the server imports; other modules are imported by each process. Where pandas is, pyarrow imports it."""


def forkserver() -> Any:
    """Returns the context of the server, which starts with the first process that is asked for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class ProcessError(AssertionError):
    """A process failed: the text holds its traceback."""


def run_processes(
    world_size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0, threads: int = 1
) -> list[Any]:
    """Calls `function(rank, *arguments)` in `world_size` fresh processes; their results, in rank order.

    The function must be importable by name and its arguments and results picklable (tensors go as they are). Each
    process has its process group, environment and `threads` torch threads ready; four of them are two hosts of two, as
    far as their environment goes. Raises ProcessError with the first
    failing process's traceback, or where the processes take longer than `timeout` seconds; none is left behind.
    """
    context = forkserver()
    port = _free_port()
    processes, ends = [], []
    for rank in range(world_size):
        mine, theirs = context.Pipe(duplex=False)
        arguments_of_one = (theirs, rank, world_size, port, timeout, threads, function, arguments)
        process = context.Process(target=_run_one, args=arguments_of_one, daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(mine)
    try:
        return _collect(ends, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(ends: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    waiting = {end: rank for rank, end in enumerate(ends)}
    while waiting:
        patience = 2.0 if failures else deadline - time.monotonic()  # a failure's cause may come from another rank
        ready = wait(list(waiting), timeout=max(0.0, patience))
        if not ready:
            break
        for end in ready:
            rank = waiting.pop(end)
            try:
                worked, value = pickle.loads(end.recv_bytes())
            except EOFError:
                worked, value = False, "ended without a word"
            (results if worked else failures)[rank] = value
    if failures:
        cause = [r for r in failures if "Connection" not in failures[r].splitlines()[-1]]
        rank = (cause or list(failures))[0]
        raise ProcessError(f"rank {rank} of {len(ends)} failed:\n{failures[rank]}")
    if waiting:
        raise ProcessError(f"ranks {sorted(waiting.values())} of {len(ends)} took too long")
    return [results[rank] for rank in range(len(ends))]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _run_one(
    end: Connection,
    rank: int,
    world_size: int,
    port: int,
    timeout: float,
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    code = 0
    try:
        import torch
        import torch.distributed as dist

        local = 2 if world_size == 4 else world_size
        ranks = {"RANK": rank, "LOCAL_RANK": rank % local, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": local}
        os.environ.update(
            {k: str(v) for k, v in ranks.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        )
        torch.set_num_threads(threads)
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        result = function(rank, *arguments)
        end.send_bytes(pickle.dumps((True, result)))  # not `send`: torch would share memory with a process that ends
        dist.barrier()
    except BaseException:
        code = 1
        end.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        end.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
