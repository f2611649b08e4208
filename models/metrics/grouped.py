"""Grouped metrics see the rows of a group (a user, a request) together, whichever rank they were on."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.ordered_bits import NAN_SCORES, is_nan, ordered_bits
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.score_table import sums_at
from shardrec.models.undefined import Undefined

NO_GROUPS = "no group has rows of both classes"


def mixed(group: Tensor) -> Tensor:
    """Hashes int64 group ids, [n] -> [n], by SplitMix64's finaliser, so that any of the bits deal groups evenly."""
    x = group
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class GroupedRows(NamedTuple):
    """Grouped rows are kept as 20 bytes each.

    group: [n] int64; columns: [n, 3] int32: the bits of score (in `ordered_bits`), label and weight (float32)
    """

    group: Tensor
    columns: Tensor

    def where(self, keep: Tensor) -> "GroupedRows":
        """Returns the rows of the mask `keep`, [n] bool."""
        return GroupedRows(self.group[keep], self.columns[keep])

    def sampled(self, level: int) -> "GroupedRows":
        """Returns the rows of one group in 2^level, chosen by hash."""
        return self.where((mixed(self.group) & ((1 << level) - 1)) == 0) if level else self


class Ties(NamedTuple):
    """Ties are the rows of one group and one score, taken together: T ties in G groups, with their weights, float64.

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
        """Sums up rows of whole groups, in any order.

        counted: rows of label >= 1/2 and weight > 0 count 1 as positives, others of weight > 0 as negatives; else a row
        gives its weight x label to the positives, and the rest of its weight to the negatives
        """
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
        """Returns [G] bool: groups that hold both classes."""
        return (self.positives > 0) & (self.negatives > 0)

    @property
    def skipped(self) -> Tensor:
        """Returns [G] bool: groups that hold one class only."""
        return ((self.positives + self.negatives) > 0) & ~self.both

    def of_groups(self, values: Tensor) -> Tensor:
        """Sums values by group: [T], one of each tie -> [G]."""
        return sums_at(self.owner, values, self.positives.numel())


class Grouped(Metric):
    """A grouped metric is computed over whole groups.

    Rows meet by exchange: a hash of the group says on which rank. A rank keeps at most `capacity` rows of 20 bytes;
    beyond that it keeps one group in two, in four and so on, chosen by hash.
    """

    name: ClassVar[str]
    """How the names of the counts begin: `name_groups`, `name_skipped_groups`, `name_sampled_share`."""
    counted: ClassVar[bool] = False
    """Whether rows count, or their weights, as in `Ties.of`."""

    def __init__(self, capacity: int = 10_000_000) -> None:
        self.capacity = capacity
        self._parts: list[GroupedRows] = []
        self._rows = 0
        self._level = 0

    @abstractmethod
    def sums(self, ties: Ties) -> Tensor:
        """Returns [k] float64: what is summed over whole groups."""

    @abstractmethod
    def values(self, sums: Sequence[float], groups: float) -> dict[str, float]:
        """Returns the metric's values from the sums over all groups, of which so many hold both classes."""

    def update(self, rows: Predictions) -> None:
        """Keeps a batch's rows, or those of sampled groups. Raises ValueError where the rows have no groups."""
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
        """Returns the values, undefined for NaN scores; how many groups they are of, skip, and which share was kept."""
        rows = self._all()
        level = int(collective.concatenate(torch.tensor([self._level], device=rows.group.device)).max())
        rows = rows.sampled(level)
        # the bits above those that sample, so that every rank gets groups
        owner = ((mixed(rows.group) >> level) & ((1 << (64 - level - 1)) - 1)) % collective.world_size
        parts = [rows.where(owner == rank) for rank in range(collective.world_size)]
        met = GroupedRows(
            collective.exchange([part.group for part in parts]), collective.exchange([part.columns for part in parts])
        )
        ties = Ties.of(met, counted=self.counted)
        counts = torch.stack([ties.both.sum(), ties.skipped.sum(), is_nan(met.columns[:, 0]).sum()])
        *sums, groups, skipped, nans = collective.sum(torch.cat([self.sums(ties), counts.double()])).tolist()
        values = self.values(sums, groups)
        if nans:
            values = dict.fromkeys(values, Undefined(NAN_SCORES))
        values |= {f"{self.name}_groups": groups, f"{self.name}_skipped_groups": skipped}
        return values | ({f"{self.name}_sampled_share": 0.5**level} if level else {})


def _changes(values: Tensor) -> Tensor:
    """Returns [n] bool: whether a value differs from the one before it; True at the first."""
    changed = torch.ones_like(values, dtype=torch.bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
