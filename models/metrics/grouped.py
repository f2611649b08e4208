"""Rows met by group: what metrics inside of groups (a user, a request) share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.ordered_bits import is_nan, ordered_bits
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.score_table import sums_at


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


class Ties(NamedTuple):
    """The weights of whole groups, rows of one group and score taken together: T ties in G groups, all float64.

    owner: [T] int64 group of each tie; positive, negative: [T]; positives, negatives: [G]
    below: [T] negatives of the tie's group with lower scores
    """

    owner: Tensor
    positive: Tensor
    negative: Tensor
    positives: Tensor
    negatives: Tensor
    below: Tensor

    @classmethod
    def of(cls, rows: GroupedRows, *, counted: bool) -> "Ties":
        """counted: rows of label >= 1/2 and weight > 0 count 1 as positives, others of weight > 0 as negatives."""
        order = rows.columns[:, 0].argsort(stable=True)
        order = order[rows.group[order].argsort(stable=True)]
        group, columns = rows.group[order], rows.columns[order]
        label, weight = (columns[:, i].contiguous().view(torch.float32).double() for i in (1, 2))
        if counted:
            label, weight = (label >= 0.5).double(), (weight > 0).double()
        new_group = _changes(group)
        new_tie = new_group | _changes(columns[:, 0])
        tie, owner = new_tie.cumsum(0) - 1, (new_group.cumsum(0) - 1)[new_tie]
        ties, groups = owner.numel(), int(new_group.sum())
        positive, negative = (sums_at(tie, w, ties) for w in (weight * label, weight * (1 - label)))
        positives, negatives = (sums_at(owner, w, groups) for w in (positive, negative))
        below = negative.cumsum(0) - negative - (negatives.cumsum(0) - negatives)[owner]
        return cls(owner, positive, negative, positives, negatives, below)

    @property
    def both(self) -> Tensor:
        """[G] bool: groups that hold both classes."""
        return (self.positives > 0) & (self.negatives > 0)

    @property
    def skipped(self) -> Tensor:
        """[G] bool: groups that hold one class only."""
        return ((self.positives + self.negatives) > 0) & ~self.both

    def of_groups(self, values: Tensor) -> Tensor:
        """[T] values of ties -> [G] their sums."""
        return sums_at(self.owner, values, self.positives.numel())


class Grouped(Metric):
    """Base of metrics over whole groups.

    Rows meet by exchange: a hash of the group says on which rank. A rank keeps at most `capacity` rows of 20 bytes;
    beyond that it keeps one group in two, in four and so on, chosen by hash.
    """

    def __init__(self, capacity: int = 10_000_000) -> None:
        self.capacity = capacity
        self._parts: list[GroupedRows] = []
        self._rows = 0
        self._level = 0

    @abstractmethod
    def sums(self, rows: GroupedRows) -> Tensor:
        """[k] float64 over whole groups, in any order; the last is the number of NaN scores (`nans`)."""

    @abstractmethod
    def values(self, sums: Sequence[float], sampled_share: float) -> dict[str, float]:
        """The metric's values from the sums over all groups, of which a share was kept."""

    def update(self, rows: Predictions) -> None:
        if rows.group is None:
            raise ValueError(f"{type(self).__name__} needs the batch's groups; the schema names no group column")
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
            raise RuntimeError(f"{type(self).__name__}: compute before any update")
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
        return self.values(collective.sum(self.sums(met)).tolist(), 0.5**level)


def nans(rows: GroupedRows) -> Tensor:
    """How many scores are NaN."""
    return is_nan(rows.columns[:, 0]).sum()


def _changes(values: Tensor) -> Tensor:
    """[n] bool: whether a value differs from the one before it; True at the first."""
    changed = torch.ones_like(values, dtype=torch.bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
