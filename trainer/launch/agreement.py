"""Ranks agree on whether to go on: they have the same settings and see the same files, and end by the same error.

Each of them reads its own run file and files; what differs would not be noticed in any other way.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment

T = TypeVar("T")

MAY_DIFFER = ("launch",)
"""Settings of a worker's own machine, beside those that may always differ."""


def check_together(environment: Environment, check: Callable[[], None]) -> None:
    """Calls `check` on each rank; where it raises UserError on one, all raise that of the first. All call it alike."""
    problem = None
    try:
        check()
    except UserError as error:
        problem = str(error)
    for rank, (found, host) in enumerate(environment.gather((problem, socket.gethostname()))):
        if found is not None:
            raise UserError(found if environment.world_size == 1 else f"rank {rank} (on {host}): {found}")


def raise_alike(environment: Environment, error: UserError | None) -> None:
    """Raises, on each rank, the UserError of the first one that has any. Waits for all, who call it alike."""
    lines = environment.gather(None if error is None else str(error))
    if line := next(filter(None, lines), None):
        raise UserError(line) from error


def made_once(environment: Environment, make: Callable[[], T]) -> T:
    """Returns what the first rank makes, on every rank. Raises UserError, on all, where it does. All call it alike."""
    made: T | None = None
    problem = None
    if environment.leads:
        try:
            made = make()
        except UserError as error:
            problem = str(error)
    made, problem = environment.broadcast((made, problem))
    if problem is not None:
        raise UserError(problem)
    return cast(T, made)


def check_settings(config: RunConfig, arguments: Mapping[str, Any], environment: Environment) -> None:
    """Raises UserError, on all ranks, where one has other settings or arguments than the first. All call it alike."""
    if environment.world_size == 1:
        return
    plain = {name: value for name, value in arguments.items() if isinstance(value, str | int | tuple | dict | None)}
    first, expected = environment.broadcast((config, plain))

    def check() -> None:
        remedy = "start all workers by the same command, with the same run file"
        if change := first_difference(first, config, MAY_DIFFER):
            raise UserError(f"{change.key} is {change.now}, but {change.before} on rank 0; {remedy}")
        for name, value in plain.items():
            if value != expected.get(name):
                raise UserError(f"{name} is {value}, but {expected.get(name)} on rank 0; {remedy}")

    check_together(environment, check)
