"""Load test of a service: `python -m tests.trainer.serving.load BUNDLE --rows ROWS.parquet`.

Drives `shardrec serve BUNDLE` by wrk, which has to be on PATH, with good and bad requests mixed, and prints a line of
JSON for each measurement: requests/s, p50 and p99 beside the loader's own; what is dropped while bundles are
reloaded and when the service ends; and memory before and after `--requests` of them.
"""

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow.parquet as pq

from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.serving.opened import any_row
from tests.trainer.serving.running import Running

JSON = "application/json"
Row = dict[str, Any]

LEAST_RELOADS = 3
"""Reloads that requests are measured beside: fewer show nothing of what is dropped then."""


def main() -> None:
    """Measures, and prints."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("bundle", type=Path)
    given.add_argument("--rows", type=Path, help="Parquet with raw rows; default: rows of zeros and empty strings")
    given.add_argument("--seconds", type=int, default=10, help="of each measurement")
    given.add_argument("--workers", type=int, default=2)
    given.add_argument("--threads", type=int, default=1, help="of each worker")
    given.add_argument("--bad", type=float, default=0.1, help="share of requests that are wrong")
    given.add_argument("--requests", type=int, default=0, help="requests between which memory is looked at; 0: none")
    given.add_argument("--batch-wait-ms", default="0")
    options = given.parse_args()
    rows = _rows(options.bundle, options.rows)
    _loader(options.bundle, rows, options.threads)
    serve = ("--workers", str(options.workers), "--threads", str(options.threads))
    serve += ("--batch-wait-ms", options.batch_wait_ms)
    with tempfile.TemporaryDirectory() as scratch, Running(options.bundle, *serve) as service:
        files = {size: _requests(Path(scratch), rows, size, options.bad) for size in (1, 100)}
        for size, connections in ((1, 1), (1, 8), (1, 32), (100, 1), (100, 8), (100, 32)):
            found = _wrk(service.url, files[size], connections, options.seconds)
            _say("service", rows_per_request=size, connections=connections, **found)
        _reloads(service, files[1], options.seconds)
        if options.requests:
            _memory(service, files[1], options.requests)
        _end(service, files[1])


def _say(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what} | figures), flush=True)


def _rows(bundle: Path, path: Path | None) -> list[Row]:
    columns = Bundle(bundle).columns
    if path is None:
        return [any_row(columns)] * 100
    parquet = pq.ParquetFile(path)
    names = [name for name in columns if name in parquet.schema_arrow.names]
    return next(parquet.iter_batches(2000, columns=names)).to_pylist()


def _loader(folder: Path, rows: list[Row], threads: int) -> None:
    """Measures the loader alone, in this process."""
    bundle = Bundle(folder, threads=threads)
    for size in (1, 100):
        batches = [[random.choice(rows) for _ in range(size)] for _ in range(100)]
        for batch in batches[:10]:
            bundle.score(batch)
        times: list[float] = []
        while sum(times) < 3.0:
            for batch in batches:
                began = time.perf_counter()
                bundle.score(batch)
                times.append(time.perf_counter() - began)
        p50, p99 = np.percentile(times, [50, 99]) * 1e3
        per_second = round(len(times) / sum(times))
        _say("loader", rows_per_request=size, per_second=per_second, p50_ms=round(p50, 3), p99_ms=round(p99, 3))


def _requests(scratch: Path, rows: list[Row], size: int, bad: float) -> Path:
    """Writes a file of requests for mixed.lua, `bad` of them wrong in one of several ways."""
    drawn = random.Random(0)
    lines = []
    for _ in range(500):
        body = json.dumps({"rows": [drawn.choice(rows) for _ in range(size)]}, default=str)
        lines.append(f"{JSON}\t{body}" if drawn.random() >= bad else drawn.choice(WRONG)(body))
    path = scratch / f"{size}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def _last_row(body: str, change: Callable[[Row], Row]) -> str:
    content = json.loads(body)
    content["rows"][-1] = change(content["rows"][-1])
    return f"{JSON}\t{json.dumps(content)}"


WRONG: tuple[Callable[[str], str], ...] = (
    lambda body: f"{JSON}\t{body[:-5]}",  # no JSON
    lambda body: f"text/plain\t{body}",
    lambda body: f"{JSON}\t[1, 2]",
    lambda body: _last_row(body, lambda row: {**row, "no_such_column": 1}),
    lambda body: _last_row(body, lambda row: {name: {"a": 1} for name in row}),  # of no type that a column has
)


def _wrk(url: str, requests: Path, connections: int, seconds: float) -> dict[str, Any]:
    script = Path(__file__).with_name("mixed.lua")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"{url}/v1/score", str(requests)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    found["per_second"] = round(found.pop("requests") / found.pop("seconds"))
    return found


def _reloads(service: Running, requests: Path, seconds: int) -> None:
    """Reloads the bundle again and again while requests come, until that was done some times."""
    ended, done = threading.Event(), [0]

    def reload() -> None:
        while not ended.wait(0.5):
            said = len(service.said)
            os.kill(service.process.pid, signal.SIGHUP)
            done[0] += "reloaded" in service.wait_for("reload", said)

    thread = threading.Thread(target=reload)
    thread.start()
    while done[0] < LEAST_RELOADS and thread.is_alive():
        before = done[0]
        found = _wrk(service.url, requests, 16, seconds)
        _say("reload", reloads=done[0] - before, connections=16, **found)
    ended.set()
    thread.join()
    if done[0] < LEAST_RELOADS:
        raise SystemExit(f"the service reloaded {done[0]} times, expected {LEAST_RELOADS}: {service.said[-3:]}")


def _memory(service: Running, requests: Path, count: int) -> None:
    """Looks at the workers' resident memory, without files that are mapped, before and after `count` requests."""

    def memory() -> list[float]:
        found = [psutil.Process(pid).memory_info() for pid in service.workers]
        return [round((info.rss - info.shared) / 2**20, 1) for info in found]

    done, before = 0, memory()
    while done < count:
        found = _wrk(service.url, requests, 32, 20)
        done += sum(found["status"].values())
        _say("memory", requests=done, worker_mib=memory(), at_first=before)


def _end(service: Running, requests: Path) -> None:
    """Ends the service while clients ask over open connections, each until it can no longer connect."""
    lines = [line.split("\t", 1) for line in requests.read_text().splitlines()]
    counts = {"answered": 0, "dropped": 0, "refused": 0}
    lock = threading.Lock()

    def ask(first: int) -> None:
        address = urlsplit(service.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        for place in range(first, 10**9):
            form, body = lines[place % len(lines)]
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                what = "refused"
            else:
                try:
                    connection.request("POST", "/v1/score", body, {"content-type": form})
                    connection.getresponse().read()
                    what = "answered"
                except (OSError, http.client.HTTPException):
                    what = "dropped"
            with lock:
                counts[what] += 1
            if what != "answered":
                return

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    began = time.monotonic()
    status = service.end()
    for thread in threads:
        thread.join()
    _say("end", status=status, seconds=round(time.monotonic() - began, 2), **counts)


if __name__ == "__main__":
    main()
