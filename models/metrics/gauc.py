"""Grouped AUC: how well rows are ranked inside of each group (a user, a request)."""

from math import nan
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from models.collective import Collective
from models.metrics.averages import ratio
from models.metrics.metric import Metric
from models.metrics.ordered_bits import is_nan, ordered_bits
from models.metrics.predictions import Predictions
from models.metrics.score_table import sums_at


def mixed(group: Tensor) -> Tensor:
    """[n] int64 hash of int64 group ids (the finaliser of SplitMix64), so that any of its bits deal groups evenly."""
    x = group
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class GroupedRows(NamedTuple):
    """group: [n] int64; columns: [n, 3] int32: the bits of score (in `ordered_bits`), label and weight (float32)."""

    group: Tensor
    columns: Tensor

    def where(self, keep: Tensor) -> "GroupedRows":
        return GroupedRows(self.group[keep], self.columns[keep])

    def sampled(self, level: int) -> "GroupedRows":
        """The rows of one group in 2^level, chosen by hash."""
        return self.where((mixed(self.group) & ((1 << level) - 1)) == 0) if level else self


class GroupedAUC(Metric):
    """`gauc` = sum_g w_g AUC_g / sum_g w_g over groups that hold both classes; w_g is the weight of the group's rows.

    (Zhu et al., KDD 2017; with weights of 1, w_g is the number of impressions.) Beside it, `gauc_groups` counts those
    groups and `gauc_skipped_groups` the groups of a single class. Rows meet by exchange: a hash of the group says
    on which rank. A rank keeps at most `capacity` rows of 20 bytes; beyond that it keeps one group in two, in four
    and so on, chosen by hash, and `gauc_sampled_share` says the share.
    """

    larger_is_better: ClassVar = {
        "gauc": True,
        "gauc_groups": None,
        "gauc_skipped_groups": None,
        "gauc_sampled_share": None,
    }

    def __init__(self, capacity: int = 10_000_000) -> None:
        self.capacity = capacity
        self._parts: list[GroupedRows] = []
        self._rows = 0
        self._level = 0

    def update(self, rows: Predictions) -> None:
        if rows.group is None:
            raise ValueError("GAUC needs the batch's groups; the schema names no group column")
        numbers = (rows.label.float().view(torch.int32), rows.weight.float().view(torch.int32))
        new = GroupedRows(rows.group, torch.stack([ordered_bits(rows.score), *numbers], 1)).sampled(self._level)
        self._parts.append(new)
        self._rows += new.group.numel()
        while self._rows > self.capacity and self._level < 62:
            self._level += 1
            kept = self._all().sampled(self._level)
            self._parts, self._rows = [kept], kept.group.numel()

    def _all(self) -> GroupedRows:
        if not self._parts:
            raise RuntimeError("GroupedAUC: compute before any update")
        return GroupedRows(*(torch.cat(column) for column in zip(*self._parts, strict=True)))

    def compute(self, collective: Collective) -> dict[str, float]:
        rows = self._all()
        level = int(collective.concatenate(torch.tensor([self._level], device=rows.group.device)).max())
        rows = rows.sampled(level)
        # the bits above those that sample, so that every rank gets groups
        owner = ((mixed(rows.group) >> level) & ((1 << (64 - level - 1)) - 1)) % collective.world_size
        parts = [rows.where(owner == rank) for rank in range(collective.world_size)]
        met = GroupedRows(
            collective.exchange([part.group for part in parts]), collective.exchange([part.columns for part in parts])
        )
        auc, weight, groups, skipped, nans = collective.sum(_sums(met)).tolist()
        values = {
            "gauc": nan if nans else ratio(auc, weight),
            "gauc_groups": groups,
            "gauc_skipped_groups": skipped,
        }
        return values | ({"gauc_sampled_share": 0.5**level} if level else {})


def _sums(rows: GroupedRows) -> Tensor:
    """[5] float64 over whole groups: sum of weight x AUC, of weights, groups counted, groups skipped, NaN scores."""
    key = rows.columns[:, 0]
    order = key.argsort(stable=True)
    order = order[rows.group[order].argsort(stable=True)]
    group, columns = rows.group[order], rows.columns[order]
    key = columns[:, 0]
    label, weight = (columns[:, i].contiguous().view(torch.float32).double() for i in (1, 2))
    new_group = _changes(group)
    new_tie = new_group | _changes(key)
    tie, owner = new_tie.cumsum(0) - 1, (new_group.cumsum(0) - 1)[new_tie]
    ties, groups = owner.numel(), int(new_group.sum())
    positive, negative = (sums_at(tie, w, ties) for w in (weight * label, weight * (1 - label)))
    positives, negatives = (sums_at(owner, w, groups) for w in (positive, negative))
    below = negative.cumsum(0) - negative - (negatives.cumsum(0) - negatives)[owner]
    wins = sums_at(owner, positive * (below + negative / 2), groups)
    both = (positives > 0) & (negatives > 0)
    auc = torch.where(both, wins / (positives * negatives).clamp(min=torch.finfo(torch.float64).tiny), 0)
    total = torch.where(both, positives + negatives, 0)
    some = (positives + negatives) > 0
    return torch.stack([auc @ total, total.sum(), both.sum(), (some & ~both).sum(), is_nan(key).sum()]).double()


def _changes(values: Tensor) -> Tensor:
    """[n] bool: whether a value differs from the one before it; True at the first."""
    changed = torch.ones_like(values, dtype=torch.bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
