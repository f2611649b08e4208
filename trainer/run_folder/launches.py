"""Launches are what the process knows that a user started, in `launches.jsonl`: commands, versions, memory over time.

There is a line of kind `launch` for each command that trained, and lines of kind `memory` with the largest sum since
the line before. These become rarer the longer the command takes, so that a run of weeks has some hundreds of them.
"""

import json
import os
import platform
import shlex
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from shardrec.data_pipeline.files.owned_files import not_through_links
from shardrec.trainer.run_folder.folder import RunFolder

PACKAGES = ("shardrec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "pyarrow", "numpy")
SPACING = 0.05
"""Lines about memory are further apart than this share of the time so far."""


class LaunchLog:
    """A launch log is one command's part of the file; what cannot be written costs the run nothing."""

    def __init__(self, folder: RunFolder, *, embedded: bool) -> None:
        """embedded: training was called from Python, by a program whose own arguments say nothing."""
        self._folder = folder
        self._began = self._written = time.time()
        self._largest = 0
        self._write({"kind": "launch", "command": _command(embedded=embedded), "versions": _versions(), **_machine()})

    def memory(self, size: int) -> None:
        """Takes up a sum of bytes; the first one is written at once."""
        self._largest = max(self._largest, size)
        now = time.time()
        if now - self._written >= SPACING * (self._written - self._began):
            self._write({"kind": "memory", "bytes": self._largest})
            self._written, self._largest = now, 0

    def close(self) -> None:
        """Writes what has not been written yet."""
        if self._largest:
            self._write({"kind": "memory", "bytes": self._largest})

    def _write(self, facts: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **facts})
        with suppress(OSError), open(self._folder.launches_file, "a", opener=not_through_links) as file:
            file.write(line + "\n")


def launches(folder: RunFolder) -> list[dict[str, Any]]:
    """Returns all whole lines of the file, of whatever kind; none where there is no file."""
    try:
        lines = folder.launches_file.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict)]


def _command(*, embedded: bool) -> str:
    if embedded:
        return "shardrec.train(...), from Python"
    return shlex.join(["shardrec", *sys.argv[1:]])


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(), "cores": cores, "memory_bytes": psutil.virtual_memory().total}
