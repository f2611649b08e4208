"""A process is known to others by its number, which means something in one place alone: a machine, or a container."""

import os
import socket
from functools import cache


@cache
def here() -> str:
    """Returns where this process's number means something: the host's name, and which of its containers."""
    return f"{socket.gethostname()}-{pid_namespace()}"


@cache
def pid_namespace() -> int:
    """Returns what containers of one host differ in, even where they share its name; 0 where there are none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def alive(process: int) -> bool:
    """Tells whether a process of this place is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
