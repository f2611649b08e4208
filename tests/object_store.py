"""An object store for tests: moto's server, spoken to over HTTP through a proxy that breaks what it is told to."""

import http.client
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs
import pytest

from shardrec.data_pipeline.stores import filesystems, retries
from shardrec.data_pipeline.stores.mirrors import VARIABLE
from shardrec.trainer.run_folder import store_lock

BUCKET = "bucket"
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass
class Fault:
    """A fault befalls requests in whose `METHOD path?query range` a pattern is found: so many, after some spared.

    kind: the answer is an error (500, 403); its body is cut short in the middle, or stops for `seconds`; or the
    connection is closed instead of an answer.
    """

    pattern: str
    kind: Literal["500", "403", "cut", "slow", "closed"]
    times: int = 1_000_000
    spared: int = 0
    seconds: float = 1.0
    befallen: int = 0
    seen: int = 0

    def takes(self, request: str) -> bool:
        """Says whether it befalls this request."""
        if not re.search(self.pattern, request):
            return False
        self.seen += 1
        if self.seen <= self.spared or self.befallen >= self.times:
            return False
        self.befallen += 1
        return True


@dataclass
class ObjectStore:
    """An object store is a server with one bucket; `faults` are those of its proxy, `requests` what it was asked."""

    variables: dict[str, str]
    filesystem: pafs.FileSystem
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def names(self, folder: str = "") -> list[str]:
        """Returns the keys of all objects under a folder of the bucket, relative to it."""
        base = f"{BUCKET}/{folder}".rstrip("/")
        found = self.filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(base + "/") for info in found if info.is_file)

    def read(self, name: str) -> bytes:
        """Returns an object's bytes."""
        with self.filesystem.open_input_file(f"{BUCKET}/{name}") as file:
            data: bytes = file.read()
            return data

    def write(self, name: str, data: bytes) -> None:
        """Writes an object."""
        with self.filesystem.open_output_stream(f"{BUCKET}/{name}") as file:
            file.write(data)

    def remove(self, name: str) -> None:
        """Removes an object."""
        self.filesystem.delete_file(f"{BUCKET}/{name}")

    @contextmanager
    def seen(self, mirrors: Path) -> Iterator[None]:
        """Has this process find the store, and no time pass between its tries, while it lasts."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.as_seen(mirrors).items():
                patch.setenv(name, value)
            patch.setattr(retries, "FIRST_PAUSE", 0.001)
            patch.setattr(filesystems, "REQUESTS", 1)  # pyarrow would pause between its own
            patch.setattr(store_lock, "_SETTLING_SECONDS", 0.05)
            filesystems._s3.cache_clear()
            yield
        filesystems._s3.cache_clear()

    def as_seen(self, mirrors: Path) -> dict[str, str]:
        """Returns the environment variables of a process that finds the store."""
        return self.variables | {VARIABLE: str(mirrors)}

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Has the proxy break requests while it lasts."""
        self.faults.extend(faults)
        try:
            yield
        finally:
            self.faults.clear()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet: a second one would wait for 40 ms
    server: "_Server"

    def _pass_on(self) -> None:
        body = self._body()
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip()
        self.server.store.requests.append(request)
        fault = next((f for f in list(self.server.store.faults) if f.takes(request)), None)
        if fault is not None and fault.kind in ("500", "403"):
            self._refuse(int(fault.kind))
            return
        if fault is not None and fault.kind == "closed":
            self.close_connection = True
            return
        behind = http.client.HTTPConnection(*self.server.behind)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in (*_HOP, "expect")}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self._send(data, fault)

    def handle_expect_100(self) -> bool:
        """Says at once that it goes on, for which clients wait for a second."""
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, data: bytes, fault: Fault | None) -> None:
        half = len(data) // 2 if fault else len(data)
        self.wfile.write(data[:half])
        if fault is None:
            return
        self.wfile.flush()
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            self.wfile.write(data[half:])
        else:
            self.close_connection = True

    def _refuse(self, status: int) -> None:
        code = {500: "InternalError", 403: "AccessDenied"}[status]
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>broken by the test</Message></Error>'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: ObjectStore
    behind: tuple[str, int]

    def handle_error(self, *arguments: Any) -> None:
        """Says nothing of clients that went away from a slow answer."""


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Yields a store that runs in threads of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # who else notes each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = _Server(("127.0.0.1", 0), _Proxy)
    server.behind = (host, port)
    endpoint = f"127.0.0.1:{server.server_address[1]}"
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{endpoint}",
    }
    filesystem = pafs.S3FileSystem(
        access_key="test",
        secret_key="test",
        region="us-east-1",
        endpoint_override=f"{host}:{port}",  # past the proxy
        scheme="http",
        allow_bucket_creation=True,
    )
    server.store = ObjectStore(variables, filesystem)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    filesystem.create_dir(BUCKET)
    try:
        yield server.store
    finally:
        server.shutdown()
        server.server_close()
        moto.stop()
