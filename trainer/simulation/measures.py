"""Measures say what a day came to, for all users together.

- click_rate: clicks a shown item
- diversity_shown: 1 - intra-list similarity (the mean cosine of two items' contents) of a list, mean over lists
- diversity_clicked: the same of what a user clicked in a day, mean over users with two clicks or more
- activeness: the mean of all users at the end of the day
- returns: requests a user
- lost: the share of users who have been away for `returns.lost_days`
"""

from math import nan
from typing import Any

import numpy as np

from shardrec.trainer.simulation.news import DAY
from shardrec.trainer.simulation.world import Requests, Shown, World, at_places

MEASURES = ("click_rate", "diversity_shown", "diversity_clicked", "activeness", "returns", "lost")


class Measures:
    """Measures gather what is shown and clicked over a day."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._begin()

    def _begin(self) -> None:
        self.requests = self.clicks = 0
        self.similarity = 0.0
        shape = (len(self.world.users), self.world.settings.news.topics)
        self.direction = np.zeros(shape)  # the sum of the contents of what each user clicked
        self.clicked = np.zeros(shape[0], np.int64)

    def add(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Takes up a tick."""
        news = at_places(requests.candidates, shown.place)
        self.requests += len(news)
        self.clicks += int(clicks.sum())
        self.similarity += float(self.world.similarity(news).sum())
        self.direction[requests.user] += (self.world.news.direction[news] * clicks[..., None]).sum(1)
        self.clicked[requests.user] += clicks.sum(1)

    def end(self, day: int, time: float) -> dict[str, Any]:
        """Returns what the day came to, at its end, and begins another."""
        users = self.world.users
        away = time - users.seen >= DAY * self.world.settings.returns.lost_days
        row = {
            "day": day,
            "requests": self.requests,
            "clicks": self.clicks,
            "click_rate": self.clicks / (self.requests * self.world.settings.shown) if self.requests else nan,
            "diversity_shown": 1 - self.similarity / self.requests if self.requests else nan,
            "diversity_clicked": self._of_clicked(),
            "activeness": float(users.activeness.at(time).mean()),
            "returns": self.requests / len(users),
            "lost": float(away.mean()),
        }
        self._begin()
        return row

    def _of_clicked(self) -> float:
        several = self.clicked > 1
        if not several.any():
            return nan
        count = self.clicked[several]
        similarity = ((self.direction[several] ** 2).sum(1) - count) / (count * (count - 1))
        return 1 - float(similarity.mean())
