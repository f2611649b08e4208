"""Interleaving against all lists that small rankings can give, and what keeps it fair."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.trainer.simulation.interleaving import Interleaved, interleave

FIRST, SECOND = [2, 0, 1, 3], [0, 3, 2, 1]
LISTS = 8_000


def chance(ranking: list[int], item: int, taken: tuple[int, ...], tau: float | None) -> float:
    """The probability that a ranking gives `item` next."""
    left = [i for i in ranking if i not in taken]
    if tau is None:
        return float(item == left[0])
    weights = {i: (ranking.index(i) + 1) ** -tau for i in left}
    return weights[item] / sum(weights.values())


def distribution(tau: float | None, length: int) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    """The probability of each (list, sources), place by place."""
    found = {}
    for places in permutations(range(4), length):
        for sources in product((0, 1), repeat=length):
            rankings = [(FIRST, SECOND)[source] for source in sources]
            steps = [0.5 * chance(rankings[k], places[k], places[:k], tau) for k in range(length)]
            found[places, sources] = float(np.prod(steps))
    return found


def merged(tau: float | None, length: int, lists: int = LISTS) -> Interleaved:
    first, second = (np.tile(np.array(ranking), (lists, 1)) for ranking in (FIRST, SECOND))
    return interleave(first, second, length, np.random.default_rng(1), tau=tau)


@pytest.mark.parametrize("tau", [None, 1.0, 3.0])
@pytest.mark.parametrize("length", [1, 3])
def test_lists_come_as_often_as_enumeration_says(tau: float | None, length: int) -> None:
    expected, made = distribution(tau, length), merged(tau, length)
    assert sum(expected.values()) == pytest.approx(1)
    found = dict.fromkeys(expected, 0.0)
    for places, sources in zip(made.place.tolist(), made.source.tolist(), strict=True):
        found[tuple(places), tuple(sources)] += 1 / LISTS
    for case, p in expected.items():
        assert found[case] == pytest.approx(p, abs=5 * (p * (1 - p) / LISTS) ** 0.5 + 4e-4), case


@pytest.mark.parametrize("tau", [None, 3.0])
def test_propensities_are_the_probabilities_given_what_is_above(tau: float | None) -> None:
    made = merged(tau, 4, lists=300)
    for places, propensities in zip(made.place.tolist(), made.propensity.tolist(), strict=True):
        for k, (item, found) in enumerate(zip(places, propensities, strict=True)):
            above = tuple(places[:k])
            expected = (chance(FIRST, item, above, tau) + chance(SECOND, item, above, tau)) / 2
            assert found == pytest.approx(expected)
            assert found > 0


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 9), st.sampled_from([None, 0.5, 3.0]), st.integers(0, 1000))
def test_a_list_names_nothing_twice_and_each_ranking_has_its_turn(
    count: int, length: int, tau: float | None, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    first, second = (draw.random((500, count)).argsort(1) for _ in range(2))
    made = interleave(first, second, length, draw, tau=tau)
    assert made.place.shape == (500, min(length, count))
    ordered = np.sort(made.place, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all() and ordered.min() >= 0 and ordered.max() < count
    assert made.source.mean() == pytest.approx(0.5, abs=5 * 0.5 / made.source.size**0.5)


def test_equal_rankings_come_out_as_they_are_with_clicks_credited_by_the_coin() -> None:
    ranking = np.tile(np.array(FIRST), (2000, 1))
    made = interleave(ranking, ranking, 4, np.random.default_rng(0))
    assert (made.place == ranking).all() and (made.propensity == 1).all()
    assert made.source.mean(0) == pytest.approx([0.5] * 4, abs=0.06)
