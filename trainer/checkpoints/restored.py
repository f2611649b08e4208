"""A restored session has the values of a checkpoint: what evaluates, scores and retrieves begins with one."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.worker import Worker
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session


def restored(blueprint: Blueprint, folder: RunFolder, environment: Environment, step: int) -> Session:
    """Builds a session with the values of a step's checkpoint. All workers call it alike.

    Raises UserError as `restore` does.
    """
    session = Session.build(blueprint, environment)
    restore(folder.checkpoint(step), session)
    return session


def on_checkpoint(work: Callable[..., dict[str, Any]]) -> Worker:
    """Returns a worker that does `work` with the session of a step's checkpoint, the run folder and the step."""

    @wraps(work)
    def worker(
        config: RunConfig,
        folder: RunFolder,
        environment: Environment,
        *,
        step: int,
        blueprint: Blueprint | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        session = restored(blueprint or Blueprint(config, folder.schema()), folder, environment, step)
        return work(session, folder, step=step, **arguments)

    return worker
