"""A score table holds the weight of either class at each distinct score, in bounded memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.metrics.ordered_bits import INFINITY, ordered_score


def sums_at(place: Tensor, weights: Tensor, size: int) -> Tensor:
    """Returns [size]: the sum of the weights [n] that go to each place [n]; of their dtype also where n is 0."""
    return weights.new_zeros(size).index_add_(0, place, weights)


class ScoreTable(NamedTuple):
    """A score table has K keys in ascending order, without their lowest `dropped` bits, and both classes' weights.

    keys: int32 of `ordered_bits`; positives, negatives: float64. Where labels are other numbers than those of two
    classes, positives are the sum of weight x label, and negatives what is left to the weight.
    """

    keys: Tensor
    positives: Tensor
    negatives: Tensor
    dropped: int = 0

    @property
    def scores(self) -> Tensor:
        """Returns [K] float64: the least score of each key."""
        least = (self.keys << self.dropped).clamp(min=-INFINITY - 1)  # that of -infinity may reach below all scores
        return ordered_score(least).double()

    @property
    def weight(self) -> Tensor:
        """Returns [K] float64: the weight of both classes together."""
        return self.positives + self.negatives

    @classmethod
    def summed(cls, keys: Tensor, positives: Tensor, negatives: Tensor, dropped: int = 0) -> "ScoreTable":
        """Makes a table of keys in any order, with repetitions."""
        distinct, place = torch.unique(keys, return_inverse=True)
        size = distinct.numel()
        return cls(distinct, sums_at(place, positives, size), sums_at(place, negatives, size), dropped)

    @classmethod
    def merged(cls, tables: Sequence["ScoreTable"]) -> "ScoreTable":
        """Returns the tables' sum, as coarse as the coarsest."""
        dropped = max(table.dropped for table in tables)
        same = [table.coarser(dropped)[:3] for table in tables]
        keys, positives, negatives = (torch.cat(column) for column in zip(*same, strict=True))
        return cls.summed(keys, positives, negatives, dropped)

    def coarser(self, dropped: int) -> "ScoreTable":
        """Returns the table with so many bits dropped in all."""
        if dropped == self.dropped:
            return self
        return self.summed(self.keys >> (dropped - self.dropped), self.positives, self.negatives, dropped)

    def within(self, capacity: int) -> "ScoreTable":
        """Returns itself where it fits, else coarsened to at most half of `capacity` keys, so that room is left."""
        keys, dropped = self.keys, self.dropped
        if keys.numel() <= capacity:
            return self
        while keys.numel() > max(2, capacity // 2):
            keys, dropped = torch.unique_consecutive(keys >> 1), dropped + 1
        return self.coarser(dropped)

    def counted(self) -> "ScoreTable":
        """Returns the table without the scores that have no weight."""
        keep = self.weight > 0
        return ScoreTable(self.keys[keep], self.positives[keep], self.negatives[keep], self.dropped)
