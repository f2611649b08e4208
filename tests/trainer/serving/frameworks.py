"""What a web framework costs: `python -m tests.trainer.serving.frameworks --seconds 10`.

Drives a handler that reads a body and does nothing by wrk, which has to be on PATH: under uvicorn alone, Starlette, and
FastAPI with bodies read by hand and as pydantic's models. Prints a line of JSON for each: requests/s, and the
microseconds of its process' CPU time that a request takes, which others on the machine change little.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

BODY = {"rows": [{"user": "u7", "item": "i3", "price": 9.5}]}
ANSWER = b'{"scores":[0.0421]}'
JSON = "application/json"
CONNECTIONS = 8


class Row(BaseModel):
    """A row as pydantic reads it."""

    user: str
    item: str
    price: float


class Rows(BaseModel):
    """A body as pydantic reads it."""

    rows: list[Row]


class Scores(BaseModel):
    """An answer as pydantic writes it."""

    scores: list[float]


def bare() -> Any:
    """An application of nothing but the protocol between servers and applications."""

    async def application(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", JSON.encode())]})
        await send({"type": "http.response.body", "body": ANSWER})

    return application


async def by_hand(request: Request) -> Response:
    """A handler that reads a body itself."""
    await request.body()
    return Response(ANSWER, media_type=JSON)


async def by_models(rows: Rows) -> Scores:
    """A handler of what pydantic has read, and writes."""
    return Scores(scores=[0.0421 for _ in rows.rows])


def starlette() -> Any:
    """The handler in Starlette, as the service has its own."""
    return Starlette(routes=[Route("/v1/score", by_hand, methods=["POST"])])


def fastapi(handler: Callable[..., Any]) -> Any:
    """A handler in FastAPI."""
    application = FastAPI()
    application.post("/v1/score")(handler)
    return application


APPLICATIONS: dict[str, Callable[[], Any]] = {
    "uvicorn": bare,
    "starlette": starlette,
    "fastapi, bodies by hand": lambda: fastapi(by_hand),
    "fastapi, models": lambda: fastapi(by_models),
}


def serve(name: str, listener: socket.socket) -> None:
    """Serves an application, with the settings that the service has."""
    config = uvicorn.Config(
        APPLICATIONS[name](), lifespan="off", ws="none", http="httptools", loop="uvloop", log_level="error",
        access_log=False, server_header=False,
    )  # fmt: skip
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


@contextmanager
def served(name: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serves an application in a process of its own; yields its URL and the process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(name, listener))
        process.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/score"
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.join()


def measured(url: str, process: psutil.Process, requests: Path, seconds: int) -> dict[str, Any]:
    """Returns requests/s, and the CPU time of one."""
    script = Path(__file__).with_name("mixed.lua")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-s", str(script), f"-d{seconds}s", url, str(requests)]
    before = process.cpu_times()
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    after = process.cpu_times()
    assert list(found["status"]) == ["200"], found
    used = after.user + after.system - before.user - before.system
    per_second = round(found["requests"] / found["seconds"])
    return {"per_second": per_second, "cpu_us_a_request": round(1e6 * used / found["requests"], 1)}


def main() -> None:
    """Measures each application in turn, after a second that does not count."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seconds", type=int, default=10, help="of each measurement")
    seconds = given.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        requests = Path(scratch) / "requests.txt"
        requests.write_text(f"{JSON}\t{json.dumps(BODY)}\n")
        for name in APPLICATIONS:
            with served(name) as (url, process):
                assert httpx.post(url, json=BODY, timeout=60).status_code == 200  # waits until the process answers
                measured(url, process, requests, 1)
                print(json.dumps({"what": name} | measured(url, process, requests, seconds)), flush=True)


if __name__ == "__main__":
    main()
