"""The ranks of a host, and the ranks of equal place on all hosts, have process groups of their own.

Tables that are `table_row_wise` or `grid` sum vectors within a host and send the sums to other ones. TorchRec makes the
groups for that once a process, by the environment's LOCAL_WORLD_SIZE and with half an hour's patience; here they are
those of the plan, as patient as the run's own group. Which machine a rank is really on changes how fast that is, and
nothing else.
"""

import logging

import torch
import torch.distributed as dist
from torchrec.distributed import comm

from shardrec.sharding.planning.plan import Plan

SUMMED_WITHIN_HOSTS = frozenset({"table_row_wise", "grid"})
"""The placements that need the groups."""


_made: tuple[dist.ProcessGroup, int] | None = None  # for which group of all ranks, and how many a host


def use_host_groups(plan: Plan, world: dist.ProcessGroup, device: torch.device) -> None:
    """Gives TorchRec the groups of a plan's hosts, where a table needs them. All ranks call it alike."""
    global _made
    needed = any(table.placement in SUMMED_WITHIN_HOSTS for table in plan.tables.values())
    if not needed or (_made and _made[0] is world and _made[1] == plan.local_world_size):
        return
    logging.getLogger(comm.__name__).setLevel(logging.ERROR)  # it warns that it goes by LOCAL_WORLD_SIZE
    ranks, local = range(plan.world_size), plan.local_world_size
    hosts = [list(ranks[first : first + local]) for first in ranks[::local]]
    across = [list(ranks[place::local]) for place in range(local)]
    comm._INTRA_PG, comm._CROSS_PG = (_mine(parts, world, device) for parts in (hosts, across))
    _made = (world, local)


def _mine(parts: list[list[int]], world: dist.ProcessGroup, device: torch.device) -> dist.ProcessGroup:
    """Returns the group of the part that this rank is in; every rank has to make all of them."""
    timeout = world._get_backend(device).options._timeout
    groups = [dist.new_group(ranks, timeout=timeout, backend=dist.get_backend(world)) for ranks in parts]
    return next(group for ranks, group in zip(parts, groups, strict=True) if dist.get_rank(world) in ranks)
