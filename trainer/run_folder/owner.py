"""An owner is a process that works on a run folder, described so that others can tell whether it still lives."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

import psutil

from shardrec.data_pipeline.files.processes import pid_namespace

_PROC = "/proc"


@dataclass(frozen=True)
class Owner:
    """An owner is a process: `pid` means something in `place` alone, and `started` tells it from a later one.

    command: the name of what it does, of its own (`command_name`). since: the local time at which it began.
    """

    host: str
    place: str
    pid: int
    started: str
    since: str
    command: str

    @classmethod
    def this_process(cls, command: str) -> "Owner":
        """Describes this process."""
        pid, now = os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), _place(), pid, _started(pid) or "", now, command)

    @classmethod
    def parse(cls, text: str) -> "Owner | None":
        """Reads what `dump` wrote; None for anything else."""
        try:
            found: Any = json.loads(text)
        except ValueError:
            return None
        kinds = {f.name: int if f.name == "pid" else str for f in fields(cls)}
        if not isinstance(found, Mapping) or not all(isinstance(found.get(n), kind) for n, kind in kinds.items()):
            return None
        return cls(**{name: found[name] for name in kinds})

    def dump(self) -> str:
        """Returns the owner as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def alive(self) -> bool | None:
        """Says whether the process lives; None where that cannot be seen from here: another machine or container."""
        if self.place != _place() or self.host != socket.gethostname():
            return None
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"`{self.command.partition('-')[0]}` (process {self.pid} on {self.host}, since {self.since})"


@cache
def _place() -> str:
    """Returns where process numbers mean the same: this boot of this machine, this container."""
    try:
        with open(f"{_PROC}/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} pid:[{pid_namespace()}]"
    except OSError:
        return "one machine"  # no containers either


def _started(pid: int) -> str | None:
    """Returns a mark of when a process was started, which no clock moves; None where there is no such process."""
    try:
        with open(f"{_PROC}/{pid}/stat") as file:
            after_name = file.read().rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists(f"{_PROC}/self/stat"):
            return None
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
