"""The world's laws: clicks and returns come as often as their probabilities say, which follow the written equations."""

import math

import numpy as np
import pytest

from shardrec.trainer.simulation.news import News
from shardrec.trainer.simulation.policies import Random
from shardrec.trainer.simulation.world import Requests, Shown, World, at_places
from tests.trainer.simulation.small_world import context, settings

HOUR = 3600.0


def test_clicks_and_returns_come_as_often_as_their_probabilities_say() -> None:
    """Within four standard deviations of a sum of independent draws, in all and where they are likely or unlikely."""
    world = World(settings(users=1000, days=4), seed=3)
    policy = Random(context("random", world))
    drawn: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"clicks": [], "returns": []}
    for tick in range(4 * 48):
        coming = world.users.return_probability(world.time(tick))
        requests = world.requests(tick)
        drawn["returns"].append((coming, np.isin(np.arange(1000), requests.user)))
        shown = policy.choose(requests)
        expected = at_places(world.click_probability(requests), shown.place)
        drawn["clicks"].append((expected.ravel(), world.respond(requests, shown, tick).ravel()))
    for law, pairs in drawn.items():
        probability, happened = (np.concatenate(values) for values in zip(*pairs, strict=True))
        assert np.std(probability) > 0.2 * probability.mean(), law
        parts = np.digitize(probability, np.quantile(probability, [0.25, 0.5, 0.75]))
        for part in range(4):
            p = probability[parts == part]
            z = (happened[parts == part].sum() - p.sum()) / math.sqrt((p * (1 - p)).sum())
            assert abs(z) < 4, (law, part, z)


def test_click_probability_is_the_written_equation() -> None:
    world = World(settings(), seed=1)
    for tick in range(20):
        requests = world.requests(tick)
        if tick < 19:
            world.respond(requests, first_ones(requests, 3), tick)
    users, news, clicks = world.users, world.news, world.settings.clicks
    found = world.click_probability(requests)
    assert len(requests.user) > 3 and users.exposure[requests.user].any()
    for row, user in enumerate(requests.user):
        for column, item in enumerate(requests.candidates[row]):
            topic = news.topic[item]
            taste = sum(float(users.taste[user, k]) * news.mix[item, k] for k in range(4))
            faded = math.exp(-(requests.time - users.seen[user]) / (clicks.boredom_hours * HOUR))
            hours = 0 if item < 2 else (requests.time - news.arrival[item]) / HOUR
            logit = clicks.bias + taste + news.quality[item] - clicks.age * hours
            logit -= clicks.boredom * users.exposure[user, topic] * faded
            assert found[row, column] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-6)


def test_repetition_bores_and_boredom_fades() -> None:
    world = World(settings(tastes={"drift": 0}, news={"lasting": 6, "per_day": 0, "topics": 4}), seed=0)
    topics, user = world.news.topic, np.array([5])
    fresh = probability_at(world, user, 0.0)
    world.users.visited(user, 0.0, np.eye(4)[topics[:1]] * 3, np.zeros((1, 4)), np.zeros(1))
    bored, later = (probability_at(world, user, hours * HOUR) for hours in (0, 48))
    same = topics == topics[0]
    assert (bored[same] < later[same]).all() and (later[same] < fresh[same]).all()
    assert np.array_equal(bored[~same], fresh[~same])


def test_content_users_return_sooner_by_the_hazard() -> None:
    world = World(settings(returns={"rhythm": 0, "hazard": 1e-5, "gain": 3, "middle": 0.5}), seed=0)
    world.users.satisfaction[:2] = 0.2, 0.9
    found = world.users.return_probability(12 * HOUR)[:2]
    assert found == pytest.approx([1 - math.exp(-1800e-5 * math.exp(3 * (s - 0.5))) for s in (0.2, 0.9)])
    rhythm = World(settings(returns={"rhythm": 0.5}), seed=0).users
    assert rhythm.return_probability(20 * HOUR)[0] > rhythm.return_probability(12 * HOUR)[0]


def test_a_visit_with_clicks_and_with_diversity_satisfies_more() -> None:
    world = World(settings(tastes={"drift": 0}, returns={"hazard": 1e-3, "diversity": 0.3}), seed=2)
    before = world.users.satisfaction.copy()
    requests = world.requests(0)
    shown = first_ones(requests, 3)
    clicks = world.respond(requests, shown, 0)
    direction = world.news.mix / np.linalg.norm(world.news.mix, axis=1)[:, None]
    for row, user in enumerate(requests.user):
        a, b, c = direction[requests.candidates[row, :3]]
        diversity = 1 - (a @ b + a @ c + b @ c) / 3
        depth = world.news.depth[requests.candidates[row, :3]]
        visit = 0.7 * (1 - math.exp(-(clicks[row] * depth).sum())) + 0.3 * diversity
        expected = before[user] + world.settings.returns.memory * (visit - before[user])
        assert world.users.satisfaction[user] == pytest.approx(expected)
    assert clicks.any() and not clicks.all()


def test_tastes_drift_around_what_is_usual_and_come_back() -> None:
    world = World(settings(users=4000, tastes={"drift": 0.6, "drift_days": 1}), seed=0)
    first = world.users.taste - world.users.usual
    for tick in range(48):
        world.users.drift(tick)
    day_later = world.users.taste - world.users.usual
    assert np.std(day_later) == pytest.approx(0.6, rel=0.05)
    assert np.corrcoef(first.ravel(), day_later.ravel())[0, 1] == pytest.approx(math.exp(-1), abs=0.03)


def test_as_many_news_can_be_shown_at_any_time_and_none_is_old() -> None:
    news_settings = settings().news
    news = News(news_settings, days=3, seed=0)
    for time in np.arange(0, 3 * 24, 0.5) * HOUR:
        pool = news.pool(time)
        assert len(set(pool)) == len(pool) == news_settings.pool
        assert {0, 1} <= set(pool) and (news.hours(pool[:2], time) == 0).all()
        assert (news.arrival[pool] <= time + 1).all() and (news.hours(pool, time) <= 30.01).all()
    assert pool.max() < len(news) == news_settings.count(3)


def test_candidates_are_distinct_and_any_can_be_among_them() -> None:
    world = World(settings(users=2000, returns={"hazard": 1e-4}), seed=0)
    candidates = world.requests(0).candidates
    assert all(len(set(row)) == 6 for row in candidates)
    counts = np.bincount(candidates.ravel())[world.news.pool(0.0)]
    share = 6 / world.settings.news.pool
    assert abs(counts / len(candidates) - share).max() < 4 * math.sqrt(share * (1 - share) / len(candidates))


def first_ones(requests: Requests, length: int) -> Shown:
    place = np.tile(np.arange(length), (len(requests.user), 1))
    return Shown(place, np.ones(place.shape))


def probability_at(world: World, user: np.ndarray, time: float) -> np.ndarray:
    return world.click_probability(Requests(user, {}, np.arange(6)[None], {}, time))[0]
