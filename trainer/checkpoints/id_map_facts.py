"""An id map's facts say how full it is in a checkpoint, read front to back in constant memory."""

from typing import Any

import torch

from shardrec.sharding.checkpoints.id_maps import SavedIdMap

READ = {"count", "last_use", "candidate_count"}
"""`id_map_facts` reads these columns."""


def id_map_facts(id_map: SavedIdMap, step: int) -> dict[str, Any]:
    """Returns the occupancy of an id map, saved after `step` updates.

    churn: evictions over occupied rows. occurrences: the sum of those of the ids that have a row. oldest_use: how many
    steps ago the id was named that was not for longest (1: in the last one); None where no id has a row.
    """
    occupied = occurrences = candidates = 0
    oldest = None
    for (_, counts), (_, used) in zip(id_map.rows.blocks("count"), id_map.rows.blocks("last_use"), strict=True):
        taken = counts > 0
        occurrences += int(counts.sum())
        if taken.any():
            occupied += int(taken.sum())
            least = int(used[taken].min())
            oldest = least if oldest is None else min(oldest, least)
    if id_map.candidates is not None:
        candidates = sum(int(torch.count_nonzero(c)) for _, c in id_map.candidates.blocks("candidate_count"))
    counters = id_map.counters
    return {
        "rows": id_map.rows.num_embeddings,
        "occupied": occupied,
        "admissions": counters.admissions,
        "evictions": counters.evictions,
        "churn": counters.evictions / occupied if occupied else 0.0,
        "refused": counters.refused,
        "candidates": candidates,
        "forgotten": counters.forgotten,
        "occurrences": occurrences,
        "oldest_use": None if oldest is None else step - oldest,
    }
