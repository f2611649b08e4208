"""What lists of a whole catalogue come to, by plain loops over users and items."""

from math import log2
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def pairs_of(folder: Path) -> dict[int, set[str]]:
    """user -> items of positive rows."""
    pairs: dict[int, set[str]] = {}
    for row in pq.read_table(folder).to_pylist():
        if row["label"] > 0:
            pairs.setdefault(row["user"], set()).add(row["item"])
    return pairs


def measured(
    scores: dict[int, np.ndarray], ids: list[str], wanted: dict[int, set[str]], known: dict[int, set[str]], k: int
) -> dict[str, float]:
    """The metrics at k. scores: user -> [items]; equal ones are in the order of `ids`."""
    sums = dict.fromkeys(("recall", "ndcg", "hr", "mrr"), 0.0)
    shown, users = set(), 0
    for user, of_user in scores.items():
        held_out = wanted[user] - known.get(user, set())
        if not held_out:
            continue
        users += 1
        order = [ids[p] for p in np.argsort(-of_user, kind="stable") if ids[p] not in known.get(user, set())][:k]
        shown |= set(order)
        ranks = [rank for rank, item in enumerate(order, start=1) if item in held_out]
        sums["recall"] += len(ranks) / len(held_out)
        sums["hr"] += bool(ranks)
        sums["mrr"] += 1 / ranks[0] if ranks else 0.0
        best = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(held_out)) + 1))
        sums["ndcg"] += sum(1 / log2(rank + 1) for rank in ranks) / best
    means = {f"{name}@{k}": total / users for name, total in sums.items()}
    return means | {f"coverage@{k}": len(shown) / len(ids)}
