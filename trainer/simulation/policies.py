"""A policy chooses what is shown, and learns from what is clicked. Those here do without a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.run_file import SimulationConfig
from shardrec.trainer.simulation.settings import SimulationSettings
from shardrec.trainer.simulation.world import Requests, Shown, World, at_places


@dataclass(frozen=True)
class PolicyContext:
    """A policy is made with this: its name and seed, the run file, the log's schema, a folder of its own, the world.

    folder: for what it keeps on disk between updates (runs of its model); made by who needs it. The world is for
    policies that are told the truth, to compare others with.
    """

    name: str
    seed: int
    config: SimulationConfig
    schema: Schema
    folder: Path
    world: World

    @property
    def settings(self) -> SimulationSettings:
        """Returns the section `simulation` of the run file."""
        return self.config.simulation


class Policy(Protocol):
    """A policy chooses for all requests of a tick at once; what it draws depends on seed and time alone."""

    name: str

    def choose(self, requests: Requests) -> Shown:
        """Returns what is shown."""

    def learn(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Takes up what was clicked, [R, L] bool, at once after the tick."""

    def minor_update(self) -> None:
        """Is called every `minor_minutes` of simulated time."""

    def major_update(self, log: Path, day: int) -> None:
        """Is called every `major_days`, after day 1, 2, ...; `log` holds schema.yaml and day-*.parquet so far."""

    def save(self, folder: Path) -> None:
        """Writes all that `load` needs to go on bit for bit into a folder that is there."""

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote; OSError, ValueError, KeyError, TypeError or BadZipFile say that it is damaged."""


class Fixed:
    """A fixed policy learns nothing: those below give what differs."""

    def __init__(self, context: PolicyContext) -> None:
        self.name, self.seed, self.settings = context.name, context.seed, context.settings

    def choose(self, requests: Requests) -> Shown:
        """Returns what is shown."""
        raise NotImplementedError

    def learn(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Learns nothing."""

    def minor_update(self) -> None:
        """Does nothing."""

    def major_update(self, log: Path, day: int) -> None:
        """Does nothing."""

    def save(self, folder: Path) -> None:
        """Has nothing to keep."""

    def load(self, folder: Path) -> None:
        """Has nothing to take up."""

    def draw(self, requests: Requests) -> np.random.Generator:
        """Returns the generator of this tick's choices."""
        return draws(self.seed, "policy", round(requests.time))


def best(scores: np.ndarray, length: int, points: np.ndarray | None = None) -> Shown:
    """Shows the candidates of the highest scores [R, C], the best first, surely; of equal ones the first.

    points: [R, C] drawn numbers, in whose order equal ones stand: each of n that are left has a probability of 1 / n.
    """
    if points is None:
        place = np.argsort(-scores, axis=1, kind="stable")[:, :length]
        return Shown(place, np.ones(place.shape))
    order = np.lexsort((points, -scores), axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    equal = np.triu(ranked[:, :length, None] == ranked[:, None, :])  # [R, L, C], those above left out
    return Shown(order[:, :length], 1 / equal.sum(2))


class Random(Fixed):
    """Random shows any candidates in any order, each as likely as the others."""

    def choose(self, requests: Requests) -> Shown:
        """Returns lists drawn without replacement, with their probabilities: 1 / C, 1 / (C - 1), ..."""
        shape = requests.candidates.shape
        place = np.argsort(self.draw(requests).random(shape), axis=1)[:, : self.settings.shown]
        left = shape[1] - np.arange(place.shape[1])
        return Shown(place, np.broadcast_to(1 / left, place.shape))


class Popularity(Fixed):
    """Popularity shows what was clicked most often, of the times that it was shown, lately.

    A news' rate is (clicks + 1) / (exposures + `PRIOR`), so that new ones begin at a rate that few reach and are tried.
    """

    MEMORY_HOURS = 24.0
    PRIOR = 4.0

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        count = len(context.world.news)
        self.clicks, self.exposures, self.time = np.zeros(count), np.zeros(count), np.zeros(1)

    def choose(self, requests: Requests) -> Shown:
        """Returns the candidates of the highest rates; equal ones in a drawn order."""
        rate = (self.clicks + 1) / (self.exposures + self.PRIOR)
        scores = rate[requests.candidates]
        return best(scores, self.settings.shown, self.draw(requests).random(scores.shape))

    def learn(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Counts clicks and exposures; earlier ones fade."""
        fades = np.exp(-(requests.time - self.time) / (3600 * self.MEMORY_HOURS))
        news = at_places(requests.candidates, shown.place)
        count = len(self.clicks)
        self.clicks = self.clicks * fades + np.bincount(news.ravel(), clicks.ravel().astype(float), count)
        self.exposures = self.exposures * fades + np.bincount(news.ravel(), minlength=count)
        self.time = np.array([requests.time])

    def save(self, folder: Path) -> None:
        """Writes the counts."""
        np.savez(folder / "counts.npz", clicks=self.clicks, exposures=self.exposures, time=self.time)

    def load(self, folder: Path) -> None:
        """Takes up the counts."""
        with np.load(folder / "counts.npz") as kept:
            self.clicks, self.exposures, self.time = kept["clicks"], kept["exposures"], kept["time"]


class Ideal(Fixed):
    """Ideal is told the true click probabilities, and shows the highest: what no policy that has to learn can know.

    It looks no further than the click: one that spares its users' patience may do better in the long run.
    """

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self.world = context.world

    def choose(self, requests: Requests) -> Shown:
        """Returns the candidates that are most likely to be clicked."""
        return best(self.world.click_probability(requests), self.settings.shown)
