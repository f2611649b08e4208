"""Hit rate and NDCG at K say how far up a group's positives stand among its negatives."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.models.metrics.averages import ratio
from shardrec.models.metrics.grouped import Grouped, Ties


class TopK(Grouped):
    """`hr@k` and `ndcg@k` take a group's rows as its candidates, ranked by score.

    A positive (label >= 1/2) has rank 1 + the number of its group's negatives with an equal or a larger score: ties
    count against the model, other positives do not count. It scores 1 in `hr@k` and 1 / log2(rank + 1) in `ndcg@k`
    where its rank is k at most, else 0 (He et al., WWW 2017, section 4.1). A group's value is the mean over its
    positives (one in leave-one-out; of several, `hr@k` is the share among the first k, a recall), and groups count
    equally. Weights do not matter, but rows of weight 0 are left out. `top_k_groups` counts the groups with both
    classes, `top_k_skipped_groups` the others; beyond `capacity`, `top_k_sampled_share` says which share was kept.
    """

    larger_is_better: ClassVar = {"top_k_groups": None, "top_k_skipped_groups": None, "top_k_sampled_share": None}

    name = "top_k"
    counted = True

    def __init__(self, cutoffs: Sequence[int], capacity: int = 10_000_000) -> None:
        """Takes the k's, `cutoffs`."""
        super().__init__(capacity)
        self.cutoffs = tuple(cutoffs)
        self._names = [f"{name}@{k}" for k in self.cutoffs for name in ("hr", "ndcg")]
        directions = dict.fromkeys(self._names, True) | TopK.larger_is_better
        self.larger_is_better = directions  # type: ignore[misc]  # the names depend on the k's

    def sums(self, ties: Ties) -> Tensor:
        """Returns [2 K]: sums over groups of both values at each k."""
        rank = 1 + ties.negatives[ties.owner] - ties.below
        share = ties.positive / ties.positives[ties.owner].clamp(min=1) * ties.both[ties.owner]
        gain = 1 / torch.log2(rank + 1)
        scores = [(share * (rank <= k)) @ value for k in self.cutoffs for value in (torch.ones_like(gain), gain)]
        return torch.stack(scores)

    def values(self, sums: Sequence[float], groups: float) -> dict[str, float]:
        """Returns both values at each k, means over groups."""
        return {name: ratio(score, groups) for name, score in zip(self._names, sums, strict=True)}
