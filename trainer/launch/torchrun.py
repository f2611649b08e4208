"""What a process knows of the torchrun that launched it, if one did."""

import ctypes
import os
import signal
import sys

from shardrec.trainer.run_folder.signals import raise_terminated

_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def leads() -> bool:
    """Returns whether this process writes and prints, as all do but torchrun's further ranks."""
    return int(os.environ.get("RANK", "0")) == 0


def is_elsewhere() -> bool:
    """Returns whether this process is on another machine of a torchrun than rank 0."""
    return os.environ.get("GROUP_RANK", "0") != "0"


def end_with_agent() -> None:
    """Has this rank be told to end when torchrun's agent is gone, which nobody else could tell it any more.

    Linux alone does that; elsewhere such a rank trains on.
    """
    if signal.getsignal(signal.SIGTERM) is raise_terminated and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
