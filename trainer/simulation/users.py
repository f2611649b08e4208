"""Users have tastes that drift, are bored by what they have seen a lot of, and return the sooner the more content.

All quantities are arrays over users. What decays is kept as it was at a user's last visit, and decayed when read.
"""

from math import exp, sqrt

import numpy as np

from shardrec.trainer.simulation.activeness import Activeness
from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.news import DAY
from shardrec.trainer.simulation.settings import SimulationSettings

CLICK_MEMORY_DAYS = 14.0  # after which a click counts for 1/e in what is known of a user
PEAK_HOUR = 20
_DYNAMIC = ("taste", "exposure", "clicks", "seen", "satisfaction")


class Users:
    """Users are U rows of state.

    Hidden: group [U], usual [U, K] and taste [U, K] (float32, logits by topic), satisfaction [U] in 0 .. 1.
    Observable: segment [U], exposure [U, K] (items shown, by topic) and clicks [U, K], both decayed and as they were at
    the last visit; seen [U], when that was (0 before the first one); activeness.
    """

    def __init__(self, settings: SimulationSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        count, topics, tastes = settings.users, settings.news.topics, settings.tastes
        draw = draws(seed, "users")
        self.group = draw.integers(tastes.groups, size=count)
        says_nothing = draw.random(count) < tastes.segment_noise
        self.segment = np.where(says_nothing, draw.integers(tastes.groups, size=count), self.group)
        of_groups = tastes.strength * draw.standard_normal((tastes.groups, topics), np.float32)
        of_groups -= of_groups.mean()  # so that worlds differ in what is liked, and not in how much is
        own = tastes.difference * draw.standard_normal((count, topics), np.float32)
        self.usual = (of_groups[self.group] + own).astype(np.float32)
        self.taste = self.usual + np.float32(tastes.drift) * draw.standard_normal((count, topics), np.float32)
        self.exposure = np.zeros((count, topics))
        self.clicks = np.zeros((count, topics))
        self.seen = np.zeros(count)
        self.satisfaction = np.full(count, settings.returns.middle)
        self.activeness = Activeness(count, settings.activeness)

    def __len__(self) -> int:
        return len(self.group)

    # ------------------------------------------------------------ over time

    def drift(self, tick: int) -> None:
        """Moves all tastes by one tick of a mean-reverting walk, whose spread stays `tastes.drift`."""
        tastes = self.settings.tastes
        if not tastes.drift:
            return
        stays = exp(-self.settings.tick_seconds / (DAY * tastes.drift_days))
        shape = (len(self), self.settings.news.topics)
        moved = draws(self.seed, "drift", tick).standard_normal(shape, np.float32)
        moved *= np.float32(tastes.drift * sqrt(1 - stays**2))
        self.taste = self.usual + np.float32(stays) * (self.taste - self.usual) + moved

    def return_probability(self, time: float) -> np.ndarray:
        """Returns [U]: with which probability each user comes within the tick that begins at a time."""
        returns = self.settings.returns
        hazard = returns.hazard * np.exp(returns.gain * (self.satisfaction - returns.middle))
        hour = time % DAY / 3600
        rhythm = 1 + returns.rhythm * np.cos(2 * np.pi * (hour - PEAK_HOUR) / 24)
        return -np.expm1(-hazard * rhythm * self.settings.tick_seconds)

    def arrivals(self, tick: int, time: float) -> np.ndarray:
        """Returns the users who come in a tick, ascending [R] int64."""
        return np.flatnonzero(draws(self.seed, "returns", tick).random(len(self)) < self.return_probability(time))

    # ------------------------------------------------------------ what is known of some of them

    def exposures(self, users: np.ndarray, time: float) -> np.ndarray:
        """Returns how many items of each topic they were shown lately [R, K]; each fades over `boredom_hours`."""
        fading = 3600 * self.settings.clicks.boredom_hours
        return self.exposure[users] * np.exp(-(time - self.seen[users]) / fading)[:, None]

    def clicked(self, users: np.ndarray, time: float) -> np.ndarray:
        """Returns how many items of each topic they clicked [R, K]; each fades over `CLICK_MEMORY_DAYS`."""
        return self.clicks[users] * np.exp(-(time - self.seen[users]) / (DAY * CLICK_MEMORY_DAYS))[:, None]

    # ------------------------------------------------------------ after a visit

    def visited(
        self, users: np.ndarray, time: float, exposed: np.ndarray, clicked: np.ndarray, satisfied: np.ndarray
    ) -> None:
        """Takes up a visit of each user: items shown and clicked by topic [R, K], and how good it was [R], 0 .. 1."""
        self.exposure[users] = self.exposures(users, time) + exposed
        self.clicks[users] = self.clicked(users, time) + clicked
        self.seen[users] = time
        self.satisfaction[users] += self.settings.returns.memory * (satisfied - self.satisfaction[users])

    # ------------------------------------------------------------ kept

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that changes, by name."""
        kept = {name: getattr(self, name) for name in _DYNAMIC}
        return kept | {"active": self.activeness.value, "active_since": self.activeness.since}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Takes up what `state` returned."""
        for name in _DYNAMIC:
            setattr(self, name, state[name])
        self.activeness.value, self.activeness.since = state["active"], state["active_since"]
