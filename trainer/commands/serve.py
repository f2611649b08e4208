"""`shardrec serve`: a bundle answers over HTTP."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from shardrec.data_pipeline.errors import UserError, installed_by

NEEDED = ("starlette", "uvicorn", "httptools", "uvloop", "orjson", "prometheus_client")
"""Packages of the extra `serve`."""


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="what `shardrec export` made", show_default=False)],
    host: Annotated[str, typer.Option(help="the address to listen on; 0.0.0.0: all of this machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="processes that answer")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads that a worker scores with; default: cores / workers")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="rows that are scored together, at most")] = 1024,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, help="how long a batch waits for more rows; 0: while another is scored, no longer")
    ] = 0.0,
    max_rows: Annotated[int, typer.Option(min=1, help="rows or candidates of a request, at most")] = 10_000,
    max_body: Annotated[str, typer.Option(help="size of a request's body, at most")] = "8MiB",
    max_concurrency: Annotated[int, typer.Option(min=1, help="requests that a worker has in hand, at most")] = 256,
    timeout_ms: Annotated[float, typer.Option(min=1, help="how long a request is worked on")] = 10_000,
    drain_ms: Annotated[float, typer.Option(min=0, help="how long open connections live on at the end")] = 1000,
    watch: Annotated[bool, typer.Option("--watch", help="reload when the link BUNDLE leads elsewhere")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="a reload may change columns and outputs, which clients rely on")
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="a line of JSON for each request")] = False,
) -> None:
    """Answers over HTTP with a bundle's scores: rows, candidates of a context, items of a catalogue."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {', '.join(missing)}; {installed_by('serve')}")
    from shardrec.data_pipeline.declared.sizes import parse_bytes
    from shardrec.trainer.serving.settings import Settings
    from shardrec.trainer.serving.supervisor import serve as run

    try:
        largest = parse_bytes(max_body)
    except ValueError as error:
        raise UserError(f"--max-body {max_body}: {error}") from None
    if largest < 1:
        raise UserError(f"--max-body {max_body}: no body fits that; expected a size such as 8MiB")
    run(
        Settings(
            bundle=str(bundle),
            host=host,
            port=port,
            workers=workers,
            threads=threads or max(1, len(os.sched_getaffinity(0)) // workers),
            max_batch=max_batch,
            batch_wait=batch_wait_ms / 1e3,
            max_rows=max_rows,
            max_body=largest,
            max_concurrency=max_concurrency,
            timeout=timeout_ms / 1e3,
            drain=drain_ms / 1e3,
            watch=1.0 if watch else 0.0,
            allow_changes=allow_changes,
            access_log=access_log,
        )
    )
