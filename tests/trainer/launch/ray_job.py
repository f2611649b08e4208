"""A training as a Ray job: `python -m tests.trainer.launch.ray_job` submits one to a Ray of its own, with a token.

Not a test of the suite: a Ray with its job server, and a job, take half a minute and more.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests import ROOT
from tests.trainer.small_run import run_file, write_data

START_SECONDS, JOB_SECONDS = 120, 600
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")


def main() -> None:
    """Trains twice by the same line: the second job goes on with the first one's run, which is finished."""
    scratch = Path(tempfile.mkdtemp(prefix="ray-job-", dir="/tmp"))  # short: Ray's sockets lie below
    try:
        job = scratch / "job"
        job.mkdir()
        run_file(job / "run.yaml", write_data(scratch / "data", rows=240))
        run = scratch / "shared" / "mine"
        command = ["shardrec", "train", "run.yaml", "--resume", "auto"]
        settings = ("launch.address=auto", "launch.workers=1", f"run={run}", f"data.path={scratch / 'data'}")
        command += [word for setting in settings for word in ("--set", setting)]
        with cluster(scratch / "ray") as (address, environment):
            for expected in ("run folder:", "finished"):
                began = time.monotonic()
                said = submitted(command, address, job, environment)
                line = next(line for line in said.splitlines() if expected in line)
                print(f"the job succeeded in {time.monotonic() - began:.0f} s: {line}")
        assert json.loads((run / "summary.json").read_text())["finished"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray on free ports of the loopback address; gives its job server's address and a client's environment."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    environment = dict(os.environ, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), PYTHONPATH=str(ROOT))
    environment.pop("RAY_ADDRESS", None)
    options = {
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "object-store-memory": 100 << 20,
        "temp-dir": folder,
        **ports,
    }
    command = ["ray", "start", "--head", "--block", "--include-dashboard=true", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder.parent / "ray.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        until = time.monotonic() + START_SECONDS
        while subprocess.run(
            ["ray", "job", "list", "--address", address], env=environment, capture_output=True
        ).returncode:
            assert head.poll() is None and time.monotonic() < until, (folder.parent / "ray.log").read_text()
        yield address, environment
    finally:
        head.send_signal(signal.SIGTERM)  # it ends all that it started
        head.wait(60)


def submitted(command: list[str], address: str, folder: Path, environment: dict[str, str]) -> str:
    """What a job prints that ends well."""
    line = ["ray", "job", "submit", "--address", address, "--working-dir", str(folder), "--", *command]
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    sys.exit(main())
