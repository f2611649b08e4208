"""News arrive at equal distances, are of a main topic and a little of others, are good or not, and grow old."""

import numpy as np

from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.settings import NewsSettings

DAY = 86_400.0
_ROUNDING = 1e-3  # seconds
_UNEVEN = 0.5  # topic k has a share of news in proportion to (k + 1) ** -_UNEVEN


class News:
    """News are known ahead, by id, in the order of their arrival; those that last come first.

    topic, publisher: [N] int64, what can be seen. mix: [N, K], the shares of topics in the content, rows sum to 1;
    quality: [N], in logits; depth: [N], what a click on it leaves behind, 1 on average: what cannot. arrival: [N]
    seconds since the start, -inf for those that last.
    """

    def __init__(self, settings: NewsSettings, days: int, seed: int) -> None:
        self.settings = settings
        count, topics = settings.count(days), settings.topics
        draw = draws(seed, "news")
        weights = np.arange(1.0, topics + 1) ** -_UNEVEN
        self.topic = draw.choice(topics, count, p=weights / weights.sum())
        self.publisher = draw.integers(settings.publishers, size=count)
        self.mix = settings.mix * draw.dirichlet(np.ones(topics), count)
        self.mix[np.arange(count), self.topic] += 1 - settings.mix
        of_publishers = settings.publisher_quality * draw.standard_normal(settings.publishers)
        of_publishers -= of_publishers.mean()
        self.quality = of_publishers[self.publisher] + settings.quality * draw.standard_normal(count)
        even = np.linspace(-1, 1, settings.publishers) if settings.publishers > 1 else np.zeros(1)
        self.depth = (1 + settings.depth * draws(seed, "depth").permutation(even))[self.publisher]
        self.direction = self.mix / np.linalg.norm(self.mix, axis=1, keepdims=True)
        self.arrival = np.full(count, -np.inf)
        self._interval = DAY / settings.per_day if settings.per_day else np.inf
        if settings.per_day:
            arrived = np.arange(count - settings.lasting) + 1
            self.arrival[settings.lasting :] = arrived * self._interval - 3600 * settings.fresh_hours

    def __len__(self) -> int:
        return len(self.topic)

    def pool(self, time: float) -> np.ndarray:
        """Returns the ids of the news that can be shown at a time: as many at any time."""
        lasting = self.settings.lasting
        fresh = self.settings.pool - lasting
        newest = int(np.searchsorted(self.arrival[lasting:], time + _ROUNDING, side="right"))
        return np.concatenate([np.arange(lasting), np.arange(lasting + newest - fresh, lasting + newest)])

    def hours(self, news: np.ndarray, time: float) -> np.ndarray:
        """Returns the age of news in hours, 0 of those that last."""
        arrival = self.arrival[news]
        return np.where(np.isfinite(arrival), np.maximum(time - arrival, 0.0) / 3600, 0.0)
