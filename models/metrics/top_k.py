"""Top-K metrics say how far up a group's positives stand: hit rate, NDCG, recall and precision at K, and MRR."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.models.metrics.averages import ratio
from shardrec.models.metrics.grouped import NO_GROUPS, Grouped, Ties
from shardrec.models.metrics.score_table import sums_at

AT_K = ("hr", "ndcg", "recall", "precision")


class TopK(Grouped):
    """Top-K metrics take a group's rows as its candidates, ranked by score from rank 1 on.

    Among equal scores negatives come first: ties count against the model. Of a group's P positives (label >= 1/2), h
    have a rank of k at most:

        hr@k = 1 if h else 0      recall@k = h / P      precision@k = h / k      mrr = 1 / the first positive's rank
        ndcg@k = sum of 1 / log2(rank + 1) over these h, by that of the best order: over ranks 1 to min(P, k)

    (Järvelin and Kekäläinen, TOIS 2002, with gains of 0 and 1.) With one positive a group, as in leave-one-out, hr@k
    and ndcg@k are those of He et al., WWW 2017, section 4.1. Groups count equally. Weights do not matter, but rows of
    weight 0 are left out. `top_k_groups` counts the groups with both classes, `top_k_skipped_groups` the others, which
    any order would rank alike; beyond `capacity`, `top_k_sampled_share` says which share was kept.
    """

    larger_is_better: ClassVar = {"top_k_groups": None, "top_k_skipped_groups": None, "top_k_sampled_share": None}

    name = "top_k"
    counted = True

    def __init__(self, cutoffs: Sequence[int], capacity: int = 10_000_000) -> None:
        """Takes the k's, `cutoffs`."""
        super().__init__(capacity)
        self.cutoffs = tuple(cutoffs)
        self._names = [*(f"{name}@{k}" for k in self.cutoffs for name in AT_K), "mrr"]
        directions = dict.fromkeys(self._names, True) | TopK.larger_is_better
        self.larger_is_better = directions  # type: ignore[misc]  # the names depend on the k's

    def sums(self, ties: Ties) -> Tensor:
        """Returns [4 K + 1]: sums over groups of all values at each k, and of the reciprocal rank."""
        owner, rank = _ranks(ties)
        here = ties.both[owner]
        owner, rank = owner[here], rank[here]
        positives, groups = ties.positives, ties.positives.numel()
        gain = 1 / torch.log2(rank + 1)
        values = []
        for k in self.cutoffs:
            near = (rank <= k).double()
            hits, gained = sums_at(owner, near, groups), sums_at(owner, near * gain, groups)
            shares = gained / _best_gain(positives, k), hits / positives.clamp(min=1)
            values += [(hits > 0).sum(), *(share.sum() for share in shares), hits.sum() / k]
        first = rank.new_full((groups,), torch.inf).scatter_reduce(0, owner, rank, "amin")
        return torch.stack([value.double() for value in (*values, (1 / first).sum())])

    def values(self, sums: Sequence[float], groups: float) -> dict[str, float]:
        """Returns all values, means over groups."""
        return {name: ratio(value, groups, NO_GROUPS) for name, value in zip(self._names, sums, strict=True)}


def _ranks(ties: Ties) -> tuple[Tensor, Tensor]:
    """Returns the group [P] and the rank [P] float64 of every positive, below the negatives of its score."""
    of_tie = ties.positive.long()
    tie = torch.arange(of_tie.numel(), device=of_tie.device).repeat_interleave(of_tie)
    owner = ties.owner[tie]
    below = of_tie.cumsum(0)[tie] - torch.arange(tie.numel(), device=tie.device)  # of the tie's, this one included
    negatives_above = ties.negatives[owner] - ties.below[tie]
    positives = ties.positives.long()
    behind = positives.cumsum(0)[owner] - of_tie.cumsum(0)[tie]  # positives of its group with larger scores
    return owner, negatives_above + behind + below


def _best_gain(positives: Tensor, k: int) -> Tensor:
    """Returns the largest gain [G] that groups of so many positives can have in k ranks; of none that of one."""
    most = int(positives.clamp(1, k).max()) if positives.numel() else 1
    gains = (1 / torch.log2(torch.arange(2, most + 2, device=positives.device, dtype=torch.float64))).cumsum(0)
    return gains[positives.long().clamp(1, k) - 1]
