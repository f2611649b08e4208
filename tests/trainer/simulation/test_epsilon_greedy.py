"""Epsilon-greedy lists against all lists that there are, and their propensities."""

from itertools import permutations

import numpy as np
import pytest

from shardrec.trainer.simulation.epsilon_greedy import epsilon_greedy

SCORES = [0.1, 0.7, -2.0, 0.4]
LISTS = 8_000


def chance(item: int, above: tuple[int, ...], epsilon: float) -> float:
    left = [i for i in range(4) if i not in above]
    best = max(left, key=SCORES.__getitem__)
    return epsilon / len(left) + (1 - epsilon) * (item == best)


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_lists_come_as_often_as_enumeration_says_with_these_propensities(epsilon: float) -> None:
    scores = np.tile(np.array(SCORES, np.float32), (LISTS, 1))
    shown = epsilon_greedy(scores, 3, epsilon, np.random.default_rng(2))
    found = dict.fromkeys(permutations(range(4), 3), 0.0)
    for places, propensities in zip(shown.place.tolist(), shown.propensity.tolist(), strict=True):
        found[tuple(places)] += 1 / LISTS
        expected = [chance(item, tuple(places[:k]), epsilon) for k, item in enumerate(places)]
        assert propensities == pytest.approx(expected)
    for places, share in found.items():
        p = float(np.prod([chance(item, places[:k], epsilon) for k, item in enumerate(places)]))
        assert share == pytest.approx(p, abs=5 * (p / LISTS) ** 0.5 + 4e-4), places


def test_without_epsilon_the_best_are_shown_surely() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 9))
    shown = epsilon_greedy(scores, 9, 0.0, np.random.default_rng(1))
    assert (shown.place == np.argsort(-scores, axis=1)).all() and (shown.propensity == 1).all()
