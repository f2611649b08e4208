"""The top N of blocks of matrix products equal those of a plain loop over all items."""

import pytest
import torch
from torch import Tensor

from shardrec.trainer.catalogue.top_n import QUERIES, Excluded, top_n


def by_loop(
    queries: Tensor, items: Tensor, n: int, excluded: list[list[int]] | None = None
) -> tuple[list[list[float]], list[list[int]]]:
    """Sorts all items of each query by (score, position) in Python."""
    scores, positions = [], []
    for row, query in enumerate(queries.tolist()):
        out = set(excluded[row]) if excluded else set()
        products = [sum(a * b for a, b in zip(query, item, strict=True)) for item in items.tolist()]
        order = sorted((i for i in range(len(items)) if i not in out), key=lambda i: (-products[i], i))[:n]
        scores.append([products[i] for i in order] + [-torch.inf] * (n - len(order)))
        positions.append(order + [-1] * (n - len(order)))
    return scores, positions


def as_excluded(lists: list[list[int]]) -> Excluded:
    lengths = torch.tensor([0] + [len(positions) for positions in lists])
    return Excluded(lengths.cumsum(0), torch.tensor([i for positions in lists for i in positions], dtype=torch.int64))


def small_integers(generator: torch.Generator, *shape: int) -> Tensor:
    """Products of these are exact in any order of sums, and many are equal."""
    return torch.randint(-1, 2, shape, generator=generator).float()


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
@pytest.mark.parametrize("n", [1, 5, 32, 70])
def test_with_ties_and_excluded_items(n: int, block: int) -> None:
    generator = torch.Generator().manual_seed(n)
    queries, items = small_integers(generator, 9, 3), small_integers(generator, 60, 3)
    excluded = [torch.randint(60, (int(length),), generator=generator).tolist() for length in range(9)]
    excluded[4] = list(range(58))  # two candidates are left
    excluded[5] = list(range(60))  # none
    scores, positions = top_n(queries, items, n, excluded=as_excluded(excluded), block=block)
    expected = by_loop(queries, items, n, excluded)
    assert (scores.tolist(), positions.tolist()) == expected


def test_more_queries_than_are_scored_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = small_integers(generator, QUERIES + 3, 2), small_integers(generator, 12, 2)
    excluded = [[row % 12] for row in range(len(queries))]
    scores, positions = top_n(queries, items, 4, excluded=as_excluded(excluded))
    assert (scores.tolist(), positions.tolist()) == by_loop(queries, items, 4, excluded)


def test_without_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(5, 8, generator=generator), torch.randn(300, 8, generator=generator)
    scores, positions = top_n(queries, items, 10, block=64)
    expected = by_loop(queries, items, 10)
    assert positions.tolist() == expected[1]
    torch.testing.assert_close(scores, torch.tensor(expected[0]))


@pytest.mark.parametrize(("users", "items", "n"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_of_nothing(users: int, items: int, n: int) -> None:
    scores, positions = top_n(torch.ones(users, 2), torch.ones(items, 2), n)
    assert scores.tolist() == [[-torch.inf] * n] * users
    assert positions.tolist() == [[-1] * n] * users


def test_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"queries of \[2, 3\] and items of \[4, 2\]"):
        top_n(torch.ones(2, 3), torch.ones(4, 2), 1)
    with pytest.raises(ValueError, match="found 2 offsets of excluded items, expected 3"):
        top_n(torch.ones(2, 3), torch.ones(4, 3), 1, excluded=as_excluded([[1]]))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = small_integers(generator, 300, 3), small_integers(generator, 60, 3)
    excluded = as_excluded([[row % 60] for row in range(300)])
    expected = top_n(queries, items, 7, excluded=excluded, block=16)
    found = top_n(queries.cuda(), items.cuda(), 7, excluded=excluded, block=16)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, found, strict=True))
