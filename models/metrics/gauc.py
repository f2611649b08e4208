"""Grouped AUC: how well rows are ranked inside of each group (a user, a request)."""

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.models.metrics.averages import ratio
from shardrec.models.metrics.grouped import Grouped, GroupedRows, Ties, nans


class GroupedAUC(Grouped):
    """`gauc` = sum_g w_g AUC_g / sum_g w_g over groups that hold both classes; w_g is the weight of the group's rows.

    (Zhu et al., KDD 2017; with weights of 1, w_g is the number of impressions.) Beside it, `gauc_groups` counts those
    groups and `gauc_skipped_groups` the groups of a single class. Beyond `capacity`, `gauc_sampled_share` says which
    share of the groups was kept.
    """

    larger_is_better: ClassVar = {
        "gauc": True,
        "gauc_groups": None,
        "gauc_skipped_groups": None,
        "gauc_sampled_share": None,
    }

    def sums(self, rows: GroupedRows) -> Tensor:
        """[5]: sum of weight x AUC, of weights, groups counted, groups skipped, NaN scores."""
        ties = Ties.of(rows, counted=False)
        both, positives, negatives = ties.both, ties.positives, ties.negatives
        wins = ties.of_groups(ties.positive * (ties.below + ties.negative / 2))
        auc = torch.where(both, wins / (positives * negatives).clamp(min=torch.finfo(torch.float64).tiny), 0)
        total = torch.where(both, positives + negatives, 0)
        return torch.stack([auc @ total, total.sum(), both.sum(), ties.skipped.sum(), nans(rows)]).double()

    def values(self, sums: Sequence[float], sampled_share: float) -> dict[str, float]:
        auc, weight, groups, skipped, unordered = sums
        values = {
            "gauc": nan if unordered else ratio(auc, weight),
            "gauc_groups": groups,
            "gauc_skipped_groups": skipped,
        }
        return values | ({"gauc_sampled_share": sampled_share} if sampled_share < 1 else {})
