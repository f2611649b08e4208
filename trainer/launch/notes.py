"""Notes are left by ranks of torchrun for those that it starts in their place, in the store of its agents.

They last as long as the launch. How often ranks were started again would not say as much: each agent counts for itself,
and one that starts its ranks again only because another's have ended does not count.
"""

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

_PATIENCE = timedelta(seconds=30)
_KEY = "shardrec/note/"


def agents_store(timeout: timedelta) -> dist.Store | None:
    """Returns the store of torchrun's agents; None where no torchrun launched this process, or they share none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)


def leave_note(name: str) -> None:
    """Leaves a note for the ranks that will be started in the place of this launch's."""
    if store := agents_store(_PATIENCE):
        store.set(_KEY + name, _this_process())


def take_note_back(name: str) -> None:
    """Removes a note, wherever it is from."""
    if store := agents_store(_PATIENCE):
        store.delete_key(_KEY + name)


def has_note(name: str) -> bool:
    """Says whether another process of this launch has left that note; without the agents' store, whether one may."""
    if store := agents_store(_PATIENCE):
        return store.check([_KEY + name]) and store.get(_KEY + name).decode() != _this_process()
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _this_process() -> str:
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}"
