"""List metrics say how many of the items that a user was to be shown are in a list of the best of a whole catalogue."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shardrec.models.metrics.averages import ratio
from shardrec.models.metrics.collective import Collective

AT_K = ("recall", "ndcg", "hr", "mrr")
NO_USERS = "no user has an item to be found"


class ListMetrics:
    """List metrics are means over users, each with the items of its list and those that it held out.

    Of a user who held out P items, h of which are among the first K of its list:

        recall@K = h / P      hr@K = 1 if h else 0      mrr@K = 1 / the first of their ranks, 0 without any
        ndcg@K = sum of 1 / log2(rank + 1) over these h, by that of the best list: over ranks 1 to min(P, K)

    coverage@K is the share of the catalogue's items that are among the first K of any user's list. A user who held out
    nothing is left out. Sums are float64 and merge over ranks.
    """

    def __init__(self, cutoffs: Sequence[int], items: int) -> None:
        """cutoffs: the K's; items: how many the catalogue has."""
        self.cutoffs = tuple(cutoffs)
        self._items = items
        self._sums: Tensor | None = None
        self._shown: list[Tensor] = []

    def update(self, lists: Tensor, offsets: Tensor, held_out: Tensor, counts: Tensor) -> None:
        """Adds this rank's users.

        lists: [B, at least the largest K] positions, best first, -1 where a list ends before
        offsets: [B + 1]; held_out: [offsets[-1]] positions that each user held out, each once
        counts: [B] how many items it held out, those that are in no catalogue included
        """
        hits = _hits(lists, offsets, held_out, self._items)
        here = counts > 0
        rank = torch.arange(1, lists.shape[1] + 1, device=lists.device, dtype=torch.float64)
        gains = 1 / torch.log2(rank + 1)
        best = gains.cumsum(0)
        counts = counts[here].double()
        values = []
        for place, k in enumerate(self.cutoffs):
            near = hits[here, :k].double()
            found = near.sum(1)
            ideal = best[counts.clamp(max=min(k, lists.shape[1])).long() - 1]
            first = (near / rank[: near.shape[1]]).amax(1)
            values += [found / counts, (near * gains[: near.shape[1]]).sum(1) / ideal, (found > 0).double(), first]
            self._show(place, lists[here, :k])
        sums = torch.stack([value.sum() for value in (*values, torch.ones_like(counts))])
        self._sums = sums if self._sums is None else self._sums + sums

    def _show(self, place: int, lists: Tensor) -> None:
        """Marks the items of these lists as shown."""
        if len(self._shown) == place:
            self._shown.append(torch.zeros(self._items + 1, dtype=torch.bool, device=lists.device))
        self._shown[place][lists] = True  # -1 is the one more than there are

    def compute(self, collective: Collective, prefix: str = "") -> dict[str, float]:
        """Returns the values over all ranks' users, which must all call it; names begin with `prefix`."""
        assert self._sums is not None, "compute before any update"
        *sums, users = collective.sum(self._sums).tolist()
        values: dict[str, float] = {}
        for place, k in enumerate(self.cutoffs):
            of_k = sums[place * len(AT_K) : (place + 1) * len(AT_K)]
            values |= {f"{prefix}{n}@{k}": ratio(v, users, NO_USERS) for n, v in zip(AT_K, of_k, strict=True)}
            shown = collective.sum(self._shown[place][: self._items].float())
            values[f"{prefix}coverage@{k}"] = ratio(float((shown > 0).sum()), self._items, "the catalogue has no items")
        return values | {f"{prefix}users": users}


def list_directions(cutoffs: Sequence[int], prefix: str = "") -> dict[str, bool]:
    """Returns the metrics that a best step can be chosen by, the first K's recall first: larger is better in all."""
    return {f"{prefix}{name}@{k}": True for k in cutoffs for name in (*AT_K, "coverage")}


def _hits(lists: Tensor, offsets: Tensor, held_out: Tensor, items: int) -> Tensor:
    """Returns [B, K] bool: which positions of each list its user held out."""
    owner = torch.arange(len(lists), device=lists.device)
    keys = (owner.repeat_interleave(offsets.diff()) * items + held_out).sort().values
    asked = owner[:, None] * items + lists
    if not len(keys):
        return torch.zeros_like(lists, dtype=torch.bool)
    place = torch.searchsorted(keys, asked.contiguous()).clamp(max=len(keys) - 1)
    return (keys[place] == asked) & (lists >= 0)
