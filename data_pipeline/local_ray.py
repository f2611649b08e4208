"""A local Ray is for the process that starts it alone: it listens on the loopback address, and asks for a token.

Whoever may talk to a Ray runs code as its user, and Ray by itself listens on all interfaces and asks for nothing. The
token is made anew for each Ray. It is in the environment of this process, of Ray's daemons and of its workers, and in
no file and no command line. Ray reads what is set here through names of its own that may change with a release:
`tests/data_pipeline/test_local_ray.py` looks at a real one.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import psutil

OBJECT_STORE_BYTES = 100 << 20  # nothing large goes through Ray's object store; its own minimum is 75 MiB
SET_BY_RAY = ("PYTHONBREAKPOINT", "RAY_USAGE_STATS_ENABLED")  # in the process that starts or joins one
WITHOUT_MONITORS: dict[str, Any] = {"include_log_monitor": False, "no_monitor": True}
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def local_ray(num_cpus: int, **settings: Any) -> Iterator[None]:
    """Starts a Ray of this process's own, and stops it afterwards; `settings` are further ones of `ray.init`.

    Raises what `ray.init` does where Ray does not start.
    """
    import ray  # takes a while, which those that need none do not wait for

    token = secrets.token_hex(32)
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_AUTH_TOKEN_PATH": None}
    with put_back(*SET_BY_RAY), _authentication(authentication):
        try:
            with _for_this_process_alone():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    **settings,
                )
            yield
        finally:
            ray.shutdown()
            _end_left(token)


def _end_left(token: str) -> None:
    """Ends what is left of a Ray that did not end it itself: its daemons are dead, or one of them did not start.

    Its processes have its token, and so may have others that this process has started meanwhile.
    """
    ours = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            of_ray = process not in ours or process.name() in ("gcs_server", "raylet")
            if of_ray and process.environ().get("RAY_AUTH_TOKEN") == token:
                process.kill()


@contextmanager
def variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Sets environment variables, or with None removes them, and puts back afterwards what was there."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def put_back(*names: str) -> AbstractContextManager[None]:
    """Puts environment variables back afterwards, whatever sets them meanwhile."""
    return variables({name: os.environ.get(name) for name in names})


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _authentication(values: Mapping[str, str | None]) -> Iterator[None]:
    """Sets variables of Ray's authentication, which a process reads once: it is told to read them again."""
    try:
        with variables(values):
            _read_again()
            yield
    finally:
        _read_again()


def _read_again() -> None:
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


@contextmanager
def _for_this_process_alone() -> Iterator[None]:
    """Has the Ray that starts meanwhile take the loopback address, and do without processes that serve nobody here.

    All its servers listen on that address. Ray takes it by itself on macOS and Windows; `_node_ip_address="127.0.0.1"`
    it turns into the machine's address. The processes, for which it would wait, bring workers' output to a terminal,
    ask for further machines, and answer for a dashboard; an agent of the dashboard remains, without its servers.
    """
    from ray._private import parameter, ray_constants, services, utils

    replaced: dict[tuple[Any, str], Any] = {
        (ray_constants, "ENABLE_RAY_CLUSTER"): False,
        (parameter, "RayParams"): partial(parameter.RayParams, **WITHOUT_MONITORS),
        (services, "start_api_server"): lambda *_, **__: (None, None),
        (utils, "get_dashboard_dependency_error"): lambda: ModuleNotFoundError("not asked for"),
        (utils, "set_sigterm_handler"): lambda handler: None,  # it ends without a word; who started us has one
    }
    before = {(module, name): getattr(module, name) for module, name in replaced}
    _replace(replaced)
    try:
        yield
    finally:
        _replace(before)


def _replace(values: Mapping[tuple[Any, str], Any]) -> None:
    for (module, name), value in values.items():
        setattr(module, name, value)
