"""Policies without a net: what they show, with which probability, and that they are as good as they should be."""

import math
from pathlib import Path

import numpy as np
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.simulation.episode import Episode
from shardrec.trainer.simulation.linucb import LinUCB
from shardrec.trainer.simulation.policies import Popularity, Random, best
from shardrec.trainer.simulation.world import Shown, World
from tests.trainer.simulation.small_world import config, context, settings


def test_random_lists_have_probabilities_that_sum_to_one_and_are_as_frequent() -> None:
    world = World(settings(users=4000, candidates=4, shown=2, returns={"hazard": 1e-3}), seed=0)
    requests = world.requests(0)
    shown = Random(context("random", world)).choose(requests)
    lists = {tuple(row): float(p) for row, p in zip(shown.place, shown.propensity.prod(1), strict=True)}
    assert len(lists) == 12 and sum(lists.values()) == pytest.approx(1)
    rows = len(requests.user)
    for row, probability in lists.items():
        count = (shown.place == row).all(1).sum()
        assert abs(count - rows * probability) < 4 * math.sqrt(rows * probability * (1 - probability))


def test_popularity_shows_what_was_clicked_most_often_lately() -> None:
    world = World(settings(news={"lasting": 6, "per_day": 0}, returns={"hazard": 1e-3}), seed=0)
    policy = Popularity(context("popularity", world))
    requests = world.requests(0)
    everything = Shown(np.argsort(requests.candidates, axis=1), np.ones(requests.candidates.shape))  # news 0 .. 5
    policy.learn(requests, everything, np.tile(np.arange(6) % 2 == 0, (len(requests.user), 1)))
    policy.learn(requests._replace(time=86_400.0), everything, np.tile(np.arange(6) == 4, (len(requests.user), 1)))
    chosen = np.take_along_axis(requests.candidates, policy.choose(requests).place, axis=1)
    assert (chosen[:, 0] == 4).all() and (np.sort(chosen[:, 1:]) == [0, 2]).all()


def test_equal_scores_are_shown_by_chance_with_its_probability() -> None:
    """Nothing is known of any news at first: the log must not say that what was shown was sure."""
    world = World(settings(users=4000, candidates=4, shown=2, returns={"hazard": 1e-3}), seed=0)
    requests = world.requests(0)
    shown = Popularity(context("popularity", world)).choose(requests)
    assert shown.propensity[0].tolist() == [1 / 4, 1 / 3] and (shown.propensity == shown.propensity[0]).all()
    assert np.bincount(shown.place[:, 0], minlength=4).min() > 0.2 * len(shown.place)
    scores, points = np.tile([1.0, 3.0, 1.0, 2.0, 1.0], (6, 1)), np.random.default_rng(0).random((6, 5))
    some = best(scores, 4, points)
    assert (some.place[:, :2] == [1, 3]).all() and len(np.unique(some.place[:, 2])) > 1
    assert some.propensity == pytest.approx(np.tile([1, 1, 1 / 3, 1 / 2], (6, 1)))


def test_linucb_is_ridge_regression_with_a_bound() -> None:
    world = World(settings(returns={"hazard": 3e-4}, linucb={"alpha": 0.7, "ridge": 2.0}), seed=4)
    policy = LinUCB(context("linucb", world))
    for tick in range(3):
        requests = world.requests(tick)
        shown = policy.choose(requests)
        expected = best(bounds(policy, requests.actions, 0.7), 3)
        assert np.array_equal(shown.place, expected.place)
        before, x = policy.precision.copy(), policy.features(requests.actions)
        clicks = world.respond(requests, shown, tick)
        policy.learn(requests, shown, clicks)
        seen = [x[row, c] for row in range(len(x)) for c in shown.place[row]]
        assert np.allclose(policy.precision, before + sum(np.outer(v, v) for v in seen))
    assert policy.clicked.any() and policy.features(requests.actions).sum(-1).min() > 2  # 1, a topic, a publisher


def bounds(policy: LinUCB, actions: dict[str, np.ndarray], alpha: float) -> np.ndarray:
    inverse = np.linalg.inv(policy.precision)
    theta = inverse @ policy.clicked
    x = policy.features(actions)
    return np.array([[v @ theta + alpha * math.sqrt(v @ inverse @ v) for v in row] for row in x])


def test_who_knows_more_gets_more_clicks_and_more_returns(tmp_path: Path) -> None:
    rate, returns = {}, {}
    for name in ("random", "popularity", "linucb", "ideal"):
        tastes, ticks = (
            {"strength": 2.0, "groups": 2},
            {"tick_minutes": 120, "minor_minutes": 120, "clicks": {"boredom": 0}},
        )
        made = config(tmp_path, users=400, days=3, tastes=tastes, **ticks)
        episode = Episode(made, name, 2)
        episode.run()
        last = episode.rows[2:]
        rate[name] = sum(row["clicks"] for row in last) / sum(row["requests"] for row in last)
        returns[name] = sum(row["requests"] for row in episode.rows)
    assert 1.1 * rate["random"] < rate["popularity"] and 1.1 * rate["random"] < rate["linucb"]
    assert max(rate["linucb"], rate["popularity"]) < rate["ideal"]
    assert returns["random"] < returns["ideal"]


@pytest.mark.parametrize("name", ["popularity", "linucb"])
def test_a_policy_goes_on_with_what_it_had_learned(name: str, tmp_path: Path) -> None:
    def stop(day: int) -> None:
        raise InterruptedError

    whole, interrupted = (config(tmp_path / run, days=2, tick_minutes=240, minor_minutes=240) for run in ("a", "b"))
    Episode(whole, name, 0).run()
    with pytest.raises(InterruptedError):
        Episode(interrupted, name, 0).run(stop)
    Episode(interrupted, name, 0).run()
    kept = [Path(made.run, f"{name}-0/state/day-0002/policy") for made in (whole, interrupted)]
    one, other = ([file.read_bytes() for file in folder.iterdir()] for folder in kept)
    assert one == other and len(one) == 1


@pytest.mark.parametrize(
    ("place", "propensity", "said"),
    [
        ([0, 1], 1.0, "expected"),
        ([0, 1, 1], 1.0, "twice"),
        ([0, 1, 6], 1.0, "not among the candidates"),
        ([0, 1, 2], 0.0, "propensity"),
        ([0, 1, 2], 1.5, "propensity"),
    ],
)
def test_what_a_policy_cannot_show_is_one_line(place: list[int], propensity: float, said: str) -> None:
    world = World(settings(returns={"hazard": 1e-3}), seed=0)
    requests = world.requests(0)
    places = np.tile(place, (len(requests.user), 1))
    with pytest.raises(UserError, match=said):
        world.respond(requests, Shown(places, np.full(places.shape, propensity)), 0)
