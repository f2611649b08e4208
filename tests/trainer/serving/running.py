"""A service in processes of its own, as `shardrec serve` starts it, for tests and the load test."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

SECONDS_TO_START = 150.0


class Running:
    """A running service: where it listens, its processes, and what it has said on standard error so far."""

    def __init__(self, bundle: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "shardrec", "serve", str(bundle), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.said: list[str] = []
        self.access: list[str] = []
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._read, args=given)
            for given in ((self.process.stderr, self.said), (self.process.stdout, self.access))
        ]
        for thread in self._threads:
            thread.start()
        try:
            found = re.search(r"http://\S+", self.wait_for("listening on "))
        except BaseException:
            self.end()
            raise
        assert found
        self.url = found[0]

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, text: str, after: int = 0) -> str:
        """Returns the first line on standard error from the `after`-th on that holds `text`."""

        def found() -> list[str]:
            return [line for line in self.said[after:] if text in line]

        with self._news:
            self._news.wait_for(lambda: found() or not self._threads[0].is_alive(), SECONDS_TO_START)
            assert found(), f"{text!r} was not said: {self.said}"
            return found()[0]

    def client(self) -> httpx.Client:
        """Returns a client with connections of its own."""
        return httpx.Client(base_url=self.url, timeout=30.0)

    @property
    def workers(self) -> list[int]:
        """Returns the process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def end(self) -> int:
        """Ends it by SIGTERM, and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
