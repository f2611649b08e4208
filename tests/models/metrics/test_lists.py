"""List metrics equal plain loops over users' lists."""

from math import log2

import numpy as np
import pytest
import torch

from shardrec.models.metrics.collective import Alone
from shardrec.models.metrics.lists import ListMetrics
from shardrec.models.undefined import Undefined

ITEMS, USERS, LONGEST = 12, 50, 6


def by_hand(lists: list[list[int]], held_out: list[set[int]], counts: list[int], k: int) -> dict[str, float]:
    per_user: dict[str, list[float]] = {"recall": [], "ndcg": [], "hr": [], "mrr": []}
    shown = set()
    for ranked, wanted, count in zip(lists, held_out, counts, strict=True):
        if count == 0:
            continue
        ranks = [rank for rank, item in enumerate(ranked[:k], start=1) if item in wanted]
        shown |= set(ranked[:k])
        per_user["recall"].append(len(ranks) / count)
        best = sum(1 / log2(rank + 1) for rank in range(1, min(k, count) + 1))
        per_user["ndcg"].append(sum(1 / log2(rank + 1) for rank in ranks) / best)
        per_user["hr"].append(float(bool(ranks)))
        per_user["mrr"].append(1 / ranks[0] if ranks else 0.0)
    means = {f"{name}@{k}": sum(values) / len(values) for name, values in per_user.items()}
    return means | {f"coverage@{k}": len(shown) / ITEMS, "users": float(len(per_user["hr"]))}


def test_equals_a_plain_loop() -> None:
    """Users with nothing held out, with items that no catalogue has, with fewer items in a list than K."""
    draw = np.random.default_rng(0)
    lists = [list(draw.permutation(ITEMS)[: draw.integers(0, LONGEST + 1)]) for _ in range(USERS)]
    held_out = [set(draw.permutation(ITEMS)[: draw.integers(0, 9)].tolist()) for _ in range(USERS)]
    counts = [len(items) + int(draw.integers(0, 3) == 0) for items in held_out]
    assert 0 in counts
    metrics = ListMetrics((1, 4, 6, 9), ITEMS)
    for part in (slice(0, 20), slice(20, 20), slice(20, USERS)):
        padded = [[*items, *[-1] * (9 - len(items))] for items in lists[part]]
        lengths = [len(items) for items in held_out[part]]
        metrics.update(
            torch.tensor(padded, dtype=torch.int64).view(-1, 9),
            torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64),
            torch.tensor([item for items in held_out[part] for item in sorted(items)], dtype=torch.int64),
            torch.tensor(counts[part], dtype=torch.int64),
        )
    found = metrics.compute(Alone(), "new_")
    for k in (1, 4, 6, 9):
        for name, value in by_hand(lists, held_out, counts, k).items():
            assert found[f"new_{name}"] == pytest.approx(value), (name, k)


def test_without_users_nothing_is_defined() -> None:
    metrics = ListMetrics((2,), 5)
    nothing = torch.zeros(2, dtype=torch.int64)
    metrics.update(torch.tensor([[0, 1]]), nothing, nothing[:0], nothing[:1])
    found = metrics.compute(Alone())
    assert isinstance(found["recall@2"], Undefined)
    assert found["coverage@2"] == 0
