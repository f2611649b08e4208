"""Ranks that torchrun starts, and starts again, meet in the store of its agents, each time under another name.

Agents count their tries each for itself, and one that starts its ranks again only because another's have ended does not
count. So no number says which ranks belong together. Each rank leaves a word that is new with its process; rank 0
proposes a meeting of the words that it finds, and another one until all have come to it.
"""

import json
import time
import uuid

import torch.distributed as dist

PLACE = "shardrec"
"""The key of the last meeting that was proposed; `shardrec/RANK` has the word of each rank."""

LOOKED_EVERY = 0.02  # seconds


def met(store: dist.Store, rank: int, world_size: int, timeout: float) -> dist.Store:
    """Returns the part of a store that ranks have for themselves who meet now; all of them call it.

    Words of ranks that have ended may be there still. Raises DistStoreError where not all come in `timeout` seconds.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"{PLACE}/{rank}", word)
    name = _proposed(store, world_size, until) if rank == 0 else _come_to(store, rank, word, until)
    return dist.PrefixStore(name, store)


def _proposed(store: dist.Store, world_size: int, until: float) -> str:
    """Proposes meetings until all have come to one; returns its name."""
    keys = [f"{PLACE}/{rank}" for rank in range(world_size)]
    name, words = "", list[str]()
    while True:
        if store.check(keys) and (there := [store.get(key).decode() for key in keys]) != words:
            name, words = f"{PLACE}/{uuid.uuid4().hex}", there
            store.set(PLACE, json.dumps([name, words]))
        if name and store.add(f"{name}/come", 0) == world_size - 1:
            store.set(f"{name}/begins", "")
            return name
        _pause(until)


def _come_to(store: dist.Store, rank: int, word: str, until: float) -> str:
    """Comes to each meeting that is one of this process; returns the name of that which begins."""
    come_to = set[str]()
    while True:
        if store.check([PLACE]):
            name, words = json.loads(store.get(PLACE))
            if words[rank:][:1] == [word] and name not in come_to:
                store.add(f"{name}/come", 1)
                come_to.add(name)
            if name in come_to and store.check([f"{name}/begins"]):
                return name
        _pause(until)


def _pause(until: float) -> None:
    if time.monotonic() > until:
        raise dist.DistStoreError("timed out: not all ranks have come to the store of torchrun's agents")
    time.sleep(LOOKED_EVERY)
