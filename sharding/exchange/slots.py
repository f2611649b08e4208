"""A slot is one feature's rows of one shard: ranks know all slots, and each looks its own up."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Slot:
    """A slot reads a shard's rows by a feature's ids: columns [column, column + columns) of what comes out as `key`.

    Of a table that is cut by rows, `block` are the rows of each of its blocks (else it is 0), and `row` is the shard's
    first one; the last shard has all rows from there on.
    """

    feature: str
    key: str
    column: int
    columns: int
    row: int = 0
    block: int = 0
    is_last: bool = False


@dataclass(frozen=True)
class KernelSlots:
    """A kernel looks its slots up together: of one part of the lookup, and all cut by rows or none.

    pooled: whether it sums rows by bag. weighted: whether it needs weights beside ids.
    """

    part: int
    pooled: bool
    weighted: bool
    slots: tuple[Slot, ...]

    @property
    def by_rows(self) -> bool:
        """Says whether its tables are cut by rows, so that every rank adds its sums to a bag."""
        return self.slots[0].block > 0

    @property
    def columns(self) -> int:
        """Returns the columns of all slots."""
        return sum(slot.columns for slot in self.slots)


Span = tuple[int, int]
"""From where to where, the end not included."""


def runs(places: list[int]) -> list[Span]:
    """Returns places, in their order, as spans of those that ascend by one."""
    if not places:
        return []
    ends = [i + 1 for i, (a, b) in enumerate(pairwise(places)) if b != a + 1]
    return [(places[a], places[b - 1] + 1) for a, b in pairwise([0, *ends, len(places)])]
