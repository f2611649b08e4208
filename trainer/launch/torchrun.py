"""What a process knows of the torchrun that launched it, if one did."""

import os


def leads() -> bool:
    """Returns whether this process writes and prints, as all do but torchrun's further ranks."""
    return int(os.environ.get("RANK", "0")) == 0
