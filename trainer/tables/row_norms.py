"""Norms of a table's rows are gathered in one pass: mean, largest, and a histogram whose bins fit them."""

import math
from typing import Any

import torch
from torch import Tensor

FINE = 8
"""Bins into which a factor of two is cut while rows are read."""

MOST_BINS = 10
"""Bins of the histogram that is shown: neighbours are merged in pairs until no more are left."""

_LOWEST, _HIGHEST = -1100 * FINE, 1100 * FINE  # beyond the exponents of fp64


class RowNorms:
    """Row norms are Euclidean, counted by logarithmic bins; rows that are 0 or not finite are only counted."""

    def __init__(self) -> None:
        self._counts = torch.zeros(_HIGHEST - _LOWEST, dtype=torch.int64)
        self._sum = self._largest = 0.0
        self._rows = self._zero = self._not_finite = 0

    def add(self, rows: Tensor) -> None:
        """Adds rows [n, columns] of any dtype."""
        norms = torch.linalg.vector_norm(rows.float(), dim=1, dtype=torch.float64)
        finite = norms[norms.isfinite()]
        positive = finite[finite > 0]
        self._rows += len(finite)
        self._not_finite += len(norms) - len(finite)
        self._zero += len(finite) - len(positive)
        if len(positive):
            self._sum += float(positive.sum())
            self._largest = max(self._largest, float(positive.max()))
            bins = positive.log2().mul_(FINE).floor_().long().sub_(_LOWEST)
            self._counts += torch.bincount(bins, minlength=len(self._counts))

    def facts(self) -> dict[str, Any]:
        """Returns `mean` and `largest` norm (None of no rows), how many rows are `zero` or `not_finite`, and `bins`.

        A bin is (low, high, rows) with low <= norm < high.
        """
        return {
            "mean": self._sum / self._rows if self._rows else None,
            "largest": self._largest if self._rows else None,
            "zero": self._zero,
            "not_finite": self._not_finite,
            "bins": self._bins(),
        }

    def _bins(self) -> list[tuple[float, float, int]]:
        filled = self._counts.nonzero().squeeze(1)
        if not len(filled):
            return []
        first, last = (int(b) + _LOWEST for b in (filled[0], filled[-1]))
        width = 1
        while last // width - first // width >= MOST_BINS:
            width *= 2
        bins = []
        for low in range(first // width * width, last + 1, width):
            count = int(self._counts[low - _LOWEST : low + width - _LOWEST].sum())
            bins.append((math.exp2(low / FINE), math.exp2((low + width) / FINE), count))
        return bins
