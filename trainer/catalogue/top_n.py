"""The top-N items of queries are exact: blocks of matrix products, and the best of what was seen so far kept."""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8192
"""Items that are scored at once. With `QUERIES` of fp32 scores that is 8 MiB, which stays in a core's cache."""

QUERIES = 256


class Excluded(NamedTuple):
    """Excluded items are, for each query, positions of items that must not be in its list.

    offsets: [B + 1] int64, from 0 on; positions: [offsets[-1]] int64, in any order, also more than once.
    """

    offsets: Tensor
    positions: Tensor


def top_n(
    queries: Tensor, items: Tensor, n: int, *, excluded: Excluded | None = None, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Returns the n items of the largest dot products with each query, best first; ties go to the lower position.

    queries: [B, D], items: [N, D], on one device -> scores [B, n] float32, positions [B, n] int64. Where a query has
    fewer than n candidates, the rest of its row is -inf and -1. A score must not be NaN. Raises ValueError for shapes
    that do not belong together.
    """
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(f"found queries of {[*queries.shape]} and items of {[*items.shape]}, expected [B, D], [N, D]")
    if n < 0 or block < 1:
        raise ValueError(f"found n {n} and block {block}, expected n >= 0 and block >= 1")
    if excluded is not None and len(excluded.offsets) != len(queries) + 1:
        raise ValueError(f"found {len(excluded.offsets)} offsets of excluded items, expected {len(queries) + 1}")
    scores = queries.new_full((len(queries), n), -torch.inf, dtype=torch.float32)
    positions = torch.full((len(queries), n), -1, dtype=torch.int64, device=queries.device)
    if n == 0 or len(items) == 0:
        return scores, positions
    for first in range(0, len(queries), QUERIES):
        part = slice(first, first + QUERIES)
        pairs = None if excluded is None else _pairs(excluded, first, queries.device)
        scores[part], positions[part] = _top_of_queries(queries[part], items, n, pairs, block)
    return scores, positions


def _pairs(excluded: Excluded, first: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (position, query) of what is excluded for the queries from `first` on, in order of positions."""
    offsets = excluded.offsets[first : first + QUERIES + 1]
    queries = torch.repeat_interleave(offsets.diff())
    positions, order = excluded.positions[offsets[0] : offsets[-1]].sort()
    return positions.to(device), queries[order].to(device)


def _top_of_queries(
    queries: Tensor, items: Tensor, n: int, excluded: tuple[Tensor, Tensor] | None, block: int
) -> tuple[Tensor, Tensor]:
    """Returns `top_n` of a few queries: their products with all items of a block are in memory at once."""
    best = queries.new_full((len(queries), n), -torch.inf, dtype=torch.float32)
    places = torch.full((len(queries), n), -1, dtype=torch.int64, device=queries.device)
    for start in range(0, len(items), block):
        products = (queries @ items[start : start + block].T).float()
        if excluded is not None:
            _strike_out(products, *excluded, start)
        top, columns = _top_of_block(products, n)
        columns = torch.where(top == -torch.inf, -1, columns + start)
        # What was seen before has lower positions, and a stable sort keeps it in front.
        best, order = torch.cat([best, top], dim=1).sort(dim=1, descending=True, stable=True)
        best, places = best[:, :n], torch.cat([places, columns], dim=1).gather(1, order[:, :n])
    return best, places


def _strike_out(products: Tensor, positions: Tensor, queries: Tensor, start: int) -> None:
    """Sets excluded products of the block from `start` on to -inf. positions: ascending, each with its query."""
    bounds = torch.tensor([start, start + products.shape[1]], device=positions.device)
    first, end = torch.searchsorted(positions, bounds).tolist()
    products[queries[first:end], positions[first:end] - start] = -torch.inf


def _top_of_block(products: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Returns the n largest of each row, or all, and their columns, best first and of equal ones the lowest column.

    products: [B, K] -> [B, min(n, K)] twice. `topk` takes any of equal products, so one more than n is asked for: where
    it equals the last, the row's choice is made again.
    """
    n = min(n, products.shape[1])
    top, columns = products.topk(min(n + 1, products.shape[1]), dim=1)
    torn = torch.zeros(len(products), dtype=torch.bool, device=products.device)
    if top.shape[1] > n:
        torn = (top[:, n - 1] == top[:, n]) & (top[:, n] > -torch.inf)
    columns = columns[:, :n].sort(dim=1).values
    if torn.any():
        columns[torn] = _first_of_equals(products[torn], top[torn, n - 1], n)
    top, order = products.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return top, columns.gather(1, order)


def _first_of_equals(products: Tensor, least: Tensor, n: int) -> Tensor:
    """Returns, ascending, the columns of all products over `least`, and as many of the first equal ones as make n."""
    over, equal = products > least[:, None], products == least[:, None]
    wanted = n - over.sum(1, keepdim=True)
    return (over | (equal & (equal.cumsum(1) <= wanted))).nonzero()[:, 1].view(len(products), n)
