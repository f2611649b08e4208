"""Users meet news: who comes in a tick, what each could be shown, what is clicked, and what that does to users."""

from typing import NamedTuple

import numpy as np

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.news import DAY, News
from shardrec.trainer.simulation.settings import SimulationSettings
from shardrec.trainer.simulation.users import Users


class Requests(NamedTuple):
    """The users who are here in one tick make a request each: R requests with C candidates.

    user: [R] int64, each user once, ascending. state: feature -> [R] ids (int64) or numbers (float32).
    candidates: [R, C] int64, ids of news. actions: feature -> [R, C]. time: seconds since the start.
    """

    user: np.ndarray
    state: dict[str, np.ndarray]
    candidates: np.ndarray
    actions: dict[str, np.ndarray]
    time: float


class Shown(NamedTuple):
    """A policy shows L of the candidates of each request, in order.

    place: [R, L] int64, which candidates, by their column. propensity: [R, L] float64, the probability of that
    candidate at that place, given those above it. source: [R, L] int8 where two rankings were interleaved: 0 the
    current net's item, 1 the perturbed one's.
    """

    place: np.ndarray
    propensity: np.ndarray
    source: np.ndarray | None = None


def at_places(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns what of [R, C] stands at the shown places [R, L]."""
    return np.take_along_axis(values, place, axis=1)


class World:
    """A world is users and news under one seed; the same policy lives through the same world, draw for draw."""

    def __init__(self, settings: SimulationSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.news = News(settings.news, settings.days, seed)
        self.users = Users(settings, seed)

    def time(self, tick: int) -> float:
        """Returns when a tick begins, in seconds."""
        return tick * self.settings.tick_seconds

    # ------------------------------------------------------------ a request

    def requests(self, tick: int) -> Requests:
        """Moves the world to a tick and returns the requests of who comes in it; ticks are asked for in turn."""
        time = self.time(tick)
        self.users.drift(tick)
        users = self.users.arrivals(tick, time)
        state = self.state(users, time)
        self.users.activeness.returned(users, time)
        candidates = self._candidates(len(users), tick, time)
        return Requests(users, state, candidates, self._actions(users, candidates, time), time)

    def state(self, users: np.ndarray, time: float) -> dict[str, np.ndarray]:
        """Returns what can be known of users at a time, by the schema's feature: ids [n] int64, numbers [n] float32.

        The activeness in it is that before a return at this time counts.
        """
        clicks = self.users.clicked(users, time)
        total = clicks.sum(1)
        shares = clicks / (1.0 + total)[:, None]
        numbers = {
            "activeness_before": self.users.activeness.at(time, users),
            "days_away": np.log1p((time - self.users.seen[users]) / DAY),
            "clicks": np.log1p(total),
            "shown": np.log1p(self.users.exposures(users, time).sum(1)),
            **{f"clicks_topic_{k}": shares[:, k] for k in range(clicks.shape[1])},
        }
        hour = np.full(len(users), int(time % DAY // 3600), np.int64)
        ids = {"user": users, "segment": self.users.segment[users], "hour": hour}
        return ids | {name: values.astype(np.float32) for name, values in numbers.items()}

    def _candidates(self, requests: int, tick: int, time: float) -> np.ndarray:
        """Returns [R, C] news, each once, every subset of those that can be shown as likely as any other."""
        pool, wanted = self.news.pool(time), self.settings.candidates
        points = draws(self.seed, "candidates", tick).random((requests, len(pool)), np.float32)
        if wanted < len(pool):
            return pool[np.argpartition(points, wanted, axis=1)[:, :wanted]]
        return pool[np.argsort(points, axis=1)]

    def _actions(self, users: np.ndarray, candidates: np.ndarray, time: float) -> dict[str, np.ndarray]:
        topic = self.news.topic[candidates]
        clicks = self.users.clicked(users, time)
        shares = clicks / (1.0 + clicks.sum(1))[:, None]
        exposure = np.take_along_axis(self.users.exposures(users, time), topic, axis=1)
        return {
            "news": candidates,
            "topic": topic,
            "publisher": self.news.publisher[candidates],
            "age": np.log1p(self.news.hours(candidates, time)).astype(np.float32),
            "topic_clicks": np.take_along_axis(shares, topic, axis=1).astype(np.float32),
            "topic_exposure": np.log1p(exposure).astype(np.float32),
        }

    # ------------------------------------------------------------ what is clicked

    def click_probability(self, requests: Requests) -> np.ndarray:
        """Returns with which probability each candidate would be clicked if it were shown [R, C], in its tick.

        logit = bias + taste . mix + quality - age x hours - boredom x exposure to its topic
        """
        clicks, news = self.settings.clicks, requests.candidates
        taste = np.einsum("rk,rck->rc", self.users.taste[requests.user], self.news.mix[news])
        topic = self.news.topic[news]
        exposure = np.take_along_axis(self.users.exposures(requests.user, requests.time), topic, axis=1)
        logit = clicks.bias + taste + self.news.quality[news]
        logit -= clicks.age * self.news.hours(news, requests.time) + clicks.boredom * exposure
        with np.errstate(over="ignore"):  # 1 / inf: never
            return 1 / (1 + np.exp(-logit))

    def respond(self, requests: Requests, shown: Shown, tick: int) -> np.ndarray:
        """Returns what is clicked, [R, L] bool, and changes the users by what they were shown and clicked.

        A user's draws are of the tick alone: what else is shown to whom changes nothing.
        """
        check_shown(requests, shown, self.settings.shown)
        probability = at_places(self.click_probability(requests), shown.place)
        points = draws(self.seed, "clicks", tick).random((len(self.users), self.settings.shown))
        clicks: np.ndarray = points[requests.user] < probability
        news = at_places(requests.candidates, shown.place)
        topics = np.eye(self.settings.news.topics)[self.news.topic[news]]  # [R, L, K]
        weight = self.settings.returns.diversity
        left = (clicks * self.news.depth[news]).sum(1)
        satisfied = (1 - weight) * -np.expm1(-left) + weight * (1 - self.similarity(news))
        self.users.visited(requests.user, requests.time, topics.sum(1), (topics * clicks[..., None]).sum(1), satisfied)
        return clicks

    def similarity(self, news: np.ndarray) -> np.ndarray:
        """Returns the intra-list similarity of lists [R, L]: the mean cosine of two items' contents; 0 of one item."""
        length = news.shape[1]
        if length < 2:
            return np.zeros(len(news))
        whole = self.news.direction[news].sum(1)
        similarity: np.ndarray = ((whole**2).sum(1) - length) / (length * (length - 1))
        return similarity


def check_shown(requests: Requests, shown: Shown, length: int) -> None:
    """Raises UserError where a policy shows what it cannot: too few, one twice, none of the candidates, unlikely."""
    wanted = (len(requests.user), length)
    if shown.place.shape != wanted or shown.propensity.shape != wanted:
        raise UserError(f"a policy shows {shown.place.shape} items, expected {wanted} (requests, shown)")
    ordered = np.sort(shown.place, axis=1)
    if ordered.size and (ordered[:, 0].min() < 0 or ordered[:, -1].max() >= requests.candidates.shape[1]):
        raise UserError("a policy shows what is not among the candidates")
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise UserError("a policy shows a candidate twice in one list")
    if not ((shown.propensity > 0) & (shown.propensity <= 1)).all():
        raise UserError("a policy gives a propensity that is not above 0 and at most 1")
