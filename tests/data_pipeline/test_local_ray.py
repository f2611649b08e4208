"""A Ray that is started here is nobody else's: a real one, asked by other processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from shardrec.data_pipeline.local_ray import TOKEN_VARIABLES, local_ray

THEIRS = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of another cluster", "RAY_AUTH_TOKEN_PATH": None}

STRANGER = """
import os, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("ran as", ray.get(ray.remote(lambda: os.getuid()).remote()))
"""


def of_authentication() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in TOKEN_VARIABLES}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Ray's home folder, while it runs in a process that has used another one before, as a notebook may have."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        for name, value in THEIRS.items():
            patch.setenv(name, value) if value else patch.delenv(name, raising=False)
        assert not is_token_auth_enabled()  # which is read once
        with local_ray(1):
            yield home
        assert of_authentication() == THEIRS
        assert not ray.is_initialized() and not is_token_auth_enabled()


def answer(token: str | None, home: Path) -> str:
    """What a process without our memory gets from our Ray, which asks it to run a function there."""
    environment = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}  # or it waits long
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", STRANGER, address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.long
def test_who_does_not_have_the_token_runs_nothing(home: Path) -> None:
    for token in (None, "0" * 64):
        refused = answer(token, home)
        assert "InvalidAuthToken" in refused and "ran as" not in refused
    assert f"ran as {os.getuid()}" in answer(os.environ["RAY_AUTH_TOKEN"], home)


def test_no_other_machine_reaches_it(home: Path) -> None:
    ray.get(ray.remote(lambda: os.getpid()).remote())  # so that a worker is there
    here = psutil.Process()
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3 and all(ip_address(ip).is_loopback for ip in listening), listening


def test_no_process_of_it_serves_nobody(home: Path) -> None:
    """A new release of Ray may start them otherwise: then `local_ray.py` has to follow."""
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("/raylet " in line for line in lines) and any("/gcs_server " in line for line in lines)
    for unused in ("dashboard/dashboard.py", "log_monitor.py", "autoscaler/_private/monitor.py"):
        assert not [line for line in lines if unused in line]


def test_the_token_is_in_no_file_and_no_command_line(home: Path) -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    assert not list(home.rglob("*token*"))
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended meanwhile, a zombie among them: no command line
            assert token not in " ".join(process.cmdline())
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
    for path in session.rglob("*"):
        assert not (path.is_file() and token.encode() in path.read_bytes()), path
