"""Lines that a service writes: of requests as JSON on standard output, of anything else as text on standard error."""

import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the supervisor writes lines without loading a server
    from starlette.requests import Request
    from starlette.responses import Response


def say(line: str) -> None:
    """Writes what happened to the service itself."""
    print(f"shardrec serve: {line}", file=sys.stderr, flush=True)


def complain(line: str, error: BaseException) -> None:
    """Writes an error of ours with its traceback, which no client sees."""
    trace = "".join(traceback.format_exception(error))
    print(f"shardrec serve: {line}\n{trace.rstrip()}", file=sys.stderr, flush=True)


def write_line(request: "Request", response: "Response", seconds: float, *, rows: int, bundle: str) -> None:
    """Writes a request's line of the access log, whole in one call, so that lines of several workers do not mix."""
    fields = {
        "time": round(time.time(), 3),
        "client": request.client.host if request.client else None,
        "method": request.method,
        "path": request.url.path[:200],
        "status": response.status_code,
        "ms": round(seconds * 1e3, 3),
        "rows": rows,
        "bundle": bundle,
    }
    import orjson

    os.write(1, orjson.dumps(fields) + b"\n")
