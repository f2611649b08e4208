"""Grouped AUC says how well rows are ranked inside of each group (a user, a request)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.models.metrics.averages import ratio
from shardrec.models.metrics.grouped import NO_GROUPS, Grouped, Ties


class GroupedAUC(Grouped):
    """`gauc` is sum_g w_g AUC_g / sum_g w_g over groups that hold both classes; w_g is the weight of the group's rows.

    Zhu et al., KDD 2017; with weights of 1, w_g is the number of impressions. Beside it, `gauc_groups` counts those
    groups and `gauc_skipped_groups` the groups of a single class. Beyond `capacity`, `gauc_sampled_share` says which
    share of the groups was kept.
    """

    name = "gauc"

    larger_is_better: ClassVar = {
        "gauc": True,
        "gauc_groups": None,
        "gauc_skipped_groups": None,
        "gauc_sampled_share": None,
    }

    def sums(self, ties: Ties) -> Tensor:
        """Returns [2]: sum of weight x AUC, and of weights."""
        both, positives, negatives = ties.both, ties.positives, ties.negatives
        wins = ties.of_groups(ties.positive * (ties.below + ties.negative / 2))
        auc = torch.where(both, wins / (positives * negatives).clamp(min=torch.finfo(torch.float64).tiny), 0)
        total = torch.where(both, positives + negatives, 0)
        return torch.stack([auc @ total, total.sum()])

    def values(self, sums: Sequence[float], groups: float) -> dict[str, float]:
        """Returns `gauc`."""
        auc, weight = sums
        return {"gauc": ratio(auc, weight, NO_GROUPS)}
