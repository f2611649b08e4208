"""A gathered table is the score table of all rows that all ranks were given, batch by batch, in bounded memory.

It holds each distinct float32 score once, with the weight of its positives and of its negatives, and so knows ties. It
is exact as long as there are no more than `capacity` distinct scores over all ranks. Beyond that, neighbouring scores
are merged: keys are the scores' bits in an order-preserving form, and low bits are dropped, one at a time, until the
table fits. So bins get no coarser than memory demands, wherever the scores lie, and what is computed of them is wrong
by no more than what happens inside of them.
"""

import torch
from torch import Tensor

from shardrec.models.metrics.collective import Collective
from shardrec.models.metrics.ordered_bits import is_nan, ordered_bits
from shardrec.models.metrics.score_table import ScoreTable

COMPACTION_ROWS = 1 << 20


class GatheredTable:
    """A gathered table keeps `capacity` distinct scores at most, 20 bytes each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._table: ScoreTable | None = None
        self._nan = False
        self._recent: list[tuple[Tensor, Tensor, Tensor]] = []
        self._recent_rows = 0
        self._merged: tuple[ScoreTable | None] | None = None

    def add(self, score: Tensor, label: Tensor, weight: Tensor) -> None:
        """Takes in a batch's rows, [n] each; they are put into the table when enough have come."""
        self._merged = None
        self._recent.append((ordered_bits(score), label.float(), weight.float()))
        self._recent_rows += label.numel()
        # waiting until the new rows are as many as the old keys keeps the number of sorts logarithmic
        settled = 0 if self._table is None else self._table.keys.numel()
        if self._recent_rows > max(COMPACTION_ROWS, settled):
            self._settle()

    def of_all_ranks(self, collective: Collective) -> ScoreTable | None:
        """Returns the table of all ranks' rows, kept until any has more of them; None where a score was NaN.

        All ranks must call it. Raises RuntimeError before any rows were added.
        """
        table = self._settle()
        known = torch.tensor([self._merged is not None], dtype=torch.int32, device=table.keys.device)
        if self._merged is None or not collective.concatenate(known).all():
            self._merged = (self._merge(table, collective),)
        return self._merged[0]

    def with_weight(self, collective: Collective) -> ScoreTable | None:
        """Returns what `of_all_ranks` does; None also where no row has a weight."""
        table = self.of_all_ranks(collective)
        return None if table is None or not table.keys.numel() else table

    def _settle(self) -> ScoreTable:
        if self._recent:
            keys, label, weight = (torch.cat(parts) for parts in zip(*self._recent, strict=True))
            self._nan = self._nan or bool(is_nan(keys).any())
            positives = weight.double() * label
            new = ScoreTable.summed(keys, positives, weight.double() - positives)
            both = new if self._table is None else ScoreTable.merged([self._table, new])
            self._table = both.within(self.capacity)
            self._recent, self._recent_rows = [], 0
        if self._table is None:
            raise RuntimeError("score table: asked for before any rows were added")
        return self._table

    def _merge(self, table: ScoreTable, collective: Collective) -> ScoreTable | None:
        def all_ranks(*values: int) -> Tensor:
            return collective.concatenate(torch.tensor([values], device=table.keys.device))

        if all_ranks(table.keys.numel()).sum() > self.capacity:
            table = table.within(self.capacity // collective.world_size)
        dropped, has_nan = all_ranks(table.dropped, int(self._nan)).amax(0).tolist()
        table = table.coarser(dropped)
        keys, positives, negatives = (collective.concatenate(column) for column in table[:3])
        return None if has_nan else ScoreTable.summed(keys, positives, negatives, dropped).counted()
