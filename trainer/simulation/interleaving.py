"""Two rankings of the same candidates are merged into one list, so that clicks tell which of them is better.

Probabilistic interleaving (Hofmann, Whiteson & de Rijke, "A probabilistic method for inferring preferences from
clicks", CIKM 2011; Grotov & de Rijke, SIGIR 2016; the DRN paper's section 4.5). For each place of the list a fair coin
picks one of the two rankings, which gives one of its candidates that are not in the list yet. Which one:

- `tau: null`: its best one. That is the limit of the next for a large tau, and the default here: what is shown is what
  one of the two nets would show.
- `tau: 3` (Hofmann's): one drawn with probability proportional to 1 / rank^tau, ranks counted in the whole ranking; all
  candidates have a chance, at the price of showing worse ones.

Coins are tossed for each place anew, so given what is above it, the probability of a candidate at a place does not
depend on whose the others were: it is the mean of the probabilities that the two rankings give it.
"""

from typing import NamedTuple

import numpy as np

from shardrec.trainer.simulation.draws import drawn


class Interleaved(NamedTuple):
    """Interleaved rankings are a merged list for each of R requests, of L places.

    place: [R, L] int64, which candidates; propensity: [R, L] float64, the probability of that candidate at its place,
    given those above it; source: [R, L] int8, 0 where the first ranking gave it, 1 where the second did.
    """

    place: np.ndarray
    propensity: np.ndarray
    source: np.ndarray


def interleave(
    first: np.ndarray, second: np.ndarray, length: int, draw: np.random.Generator, *, tau: float | None = None
) -> Interleaved:
    """Merges two rankings, [R, C] int64 each: the candidates 0 .. C - 1 from best to worst, into `length` places.

    tau: how strongly better ranks are preferred; None: only the best that is left is taken. Two draws a place and
    request are taken from `draw`, whatever they are used for.
    """
    requests, count = first.shape
    rows, length = np.arange(requests), min(length, count)
    of_rank = _weight_of_rank(count, tau)
    weights = np.stack([_by_candidate(ranking, of_rank) for ranking in (first, second)])  # [2, R, C]
    coins, points = draw.random((2, length, requests))
    place = np.empty((requests, length), np.int64)
    propensity = np.empty((requests, length))
    source = (coins >= 0.5).T.astype(np.int8)
    for slot in range(length):
        chances = _chances(weights, only_best=tau is None)
        place[:, slot] = drawn(chances[source[:, slot], rows], points[slot])
        propensity[:, slot] = chances[:, rows, place[:, slot]].mean(0)
        weights[:, rows, place[:, slot]] = 0.0
    return Interleaved(place, propensity, source)


def _weight_of_rank(count: int, tau: float | None) -> np.ndarray:
    """Returns [C] float64, falling with the rank and never 0."""
    ranks = np.arange(1, count + 1, dtype=np.float64)
    return 1 / ranks if tau is None else ranks**-tau


def _by_candidate(ranking: np.ndarray, of_rank: np.ndarray) -> np.ndarray:
    weights = np.empty(ranking.shape)
    np.put_along_axis(weights, ranking, np.broadcast_to(of_rank, ranking.shape), axis=1)
    return weights


def _chances(weights: np.ndarray, *, only_best: bool) -> np.ndarray:
    """Returns what each ranking would give next, [2, R, C] probabilities; weights are 0 where a candidate is taken."""
    if not only_best:
        return weights / weights.sum(2, keepdims=True)
    chances = np.zeros_like(weights)
    np.put_along_axis(chances, weights.argmax(2)[..., None], 1.0, axis=2)
    return chances
