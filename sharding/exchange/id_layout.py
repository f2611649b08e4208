"""The layout of ids says which features' ids go to which rank, and in which form.

A feature that never has more than one id in a row is narrow: its ids are a vector over the rows, -1 where there is
none, whose size nobody has to be told. The ids of all others are ragged. Those for a table that is cut by rows are
dealt to its ranks before they are sent; narrow ones go to all ranks, which pick their own.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from shardrec.sharding.exchange.slots import KernelSlots, Slot, runs


class Wanted(NamedTuple):
    """Ids that a rank wants of every other: a feature's, of its block of rows alone where `block` is not 0."""

    feature: str
    block: int


class IdLayout:
    """An id layout is of all ranks' kernels, each rank's in their order, and known to all alike.

    single: features that never have more than one id in a row. weighted: those that have weights.
    """

    def __init__(
        self,
        kernels: Sequence[Sequence[KernelSlots]],
        rank: int,
        *,
        single: Collection[str],
        weighted: Collection[str],
    ) -> None:
        self.rank, self.ranks = rank, len(kernels)
        self.weighted = frozenset(weighted)
        dealt = {s.feature for of_rank in kernels for k in of_rank for s in k.slots if s.block and not k.pooled}
        self._single = frozenset(single) - self.weighted - dealt
        wanted = [
            dict.fromkeys(s.feature for k in of_rank for s in k.slots if s.feature in self._single)
            for of_rank in kernels
        ]
        of_all = set.intersection(*map(set, wanted))
        some = dict.fromkeys(f for features in wanted for f in features if f not in of_all)
        self.narrow = (*some, *(f for f in wanted[0] if f in of_all))
        places = {feature: place for place, feature in enumerate(self.narrow)}
        of_ranks = [sorted(places[f] for f in features) for features in wanted]
        self.narrow_runs = [runs(of_rank) for of_rank in of_ranks]
        self.narrow_counts = [len(of_rank) for of_rank in of_ranks]
        self._rows = {self.narrow[place]: row for row, place in enumerate(of_ranks[rank])}
        self.ragged = [self._ragged(of_rank) for of_rank in kernels]
        self.counted = [(*r, *self._narrow_sequences(k)) for r, k in zip(self.ragged, kernels, strict=True)]
        self.has_ragged = any(self.ragged)

    def _ragged(self, kernels: Sequence[KernelSlots]) -> tuple[Wanted, ...]:
        slots = (s for k in kernels for s in k.slots if s.feature not in self._single)
        return tuple(dict.fromkeys(Wanted(s.feature, s.block) for s in slots))

    def _narrow_sequences(self, kernels: Sequence[KernelSlots]) -> tuple[Wanted, ...]:
        slots = (s for k in kernels if not k.pooled for s in k.slots if s.feature in self._single)
        return tuple(dict.fromkeys(Wanted(s.feature, 0) for s in slots))

    def narrow_row(self, slot: Slot) -> int | None:
        """Returns the row of a slot's feature among this rank's narrow ones; None: it is ragged."""
        return self._rows.get(slot.feature)

    @property
    def features(self) -> tuple[str, ...]:
        """Returns all features, in the order that spares a copy of narrow ids."""
        ragged = dict.fromkeys(item.feature for of_rank in self.ragged for item in of_rank)
        return (*self.narrow, *ragged)
