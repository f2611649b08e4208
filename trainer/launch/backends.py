"""Runs one worker function on every worker: in this process, under torchrun, or on a Ray cluster by Ray Train.

Which of these it is can be told without torch, where the run file names its workers.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.cores import cluster_address, worker_count
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.handed_back import failure_left

if TYPE_CHECKING:
    from shardrec.trainer.launch.worker import Worker

Backend = Literal["in_process", "torchrun", "ray"]


def launch(worker: "Worker", config: RunConfig, folder: RunFolder, **arguments: Any) -> dict[str, Any]:
    """Runs `worker` on all workers of `config.launch`; returns rank 0's result.

    Raises UserError as some worker raised it, or one that names the log where a worker died otherwise.
    """
    if choose_backend(config.launch) == "ray":
        from shardrec.trainer.launch.on_ray import launch_on_ray  # a machine without Ray can still run in-process

        return launch_on_ray(worker, config, folder, arguments)
    from shardrec.trainer.launch.environment import Environment
    from shardrec.trainer.launch.worker import run_worker

    try:
        return run_worker(worker, config, folder, Environment.from_variables(config.launch.device), arguments)
    except UserError:
        raise
    except Exception:
        if stopped := failure_left(folder):  # another rank's; this one only lost its connection
            raise stopped from None
        raise


def choose_backend(launch: LaunchConfig) -> Backend:
    """Returns torchrun where its variables are set, Ray for several workers or a named cluster, else this process.

    Raises UserError for several workers in one process.
    """
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return "torchrun"
    if launch.backend == "in_process" and (launch.fewest_workers or 1) > 1:
        raise UserError(f"launch: in_process runs one worker, {launch.fewest_workers} are asked for; use backend: ray")
    if launch.backend != "auto":
        return launch.backend
    if cluster_address(launch):
        return "ray"
    return "ray" if worker_count(launch) > 1 else "in_process"


def check_launches_workers(launch: LaunchConfig, command: str) -> None:
    """Raises UserError under torchrun, for a command that launches its workers itself."""
    if choose_backend(launch) == "torchrun":
        raise UserError(f"{command} launches its own workers; run it without torchrun, with --set launch.workers=N")


def flush_and_exit(code: int) -> None:
    """Ends this process at once: gloo threads that still hold tensors would abort an ordinary exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
