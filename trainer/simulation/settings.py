"""The section `simulation` of a run file says who the users are, which news come, which policies serve, how often.

The defaults are a small news site on which policies differ: see docs/simulation.md for the equations.
"""

from math import isclose
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from shardrec.data_pipeline.declared.declaration import given_twice
from shardrec.trainer.config.sections import Count, Section
from shardrec.trainer.simulation.activeness import ActivenessConfig

DAY_MINUTES = 24 * 60

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6)]


class NewsSettings(Section):
    """Says which news there are: `per_day` arrive, at equal distances, and can be shown for `fresh_hours`.

    lasting: news that are there all the time, and do not age. mix: the share of a news' content that is not of its
    main topic. quality, publisher_quality: standard deviations, in logits. depth: how far publishers are from each
    other in what a click on their news leaves behind, from 1 - depth to 1 + depth: clicks alone do not tell it.
    """

    per_day: int = Field(default=100, ge=0, le=1_000_000)
    fresh_hours: float = Field(default=48.0, gt=0, le=24 * 365)
    lasting: int = Field(default=0, ge=0, le=1_000_000)
    topics: int = Field(default=12, gt=0, le=10_000)
    publishers: int = Field(default=20, gt=0, le=1_000_000)
    mix: Share = 0.3
    quality: Amount = 0.3
    publisher_quality: Amount = 0.3
    depth: Share = 0.8

    @property
    def pool(self) -> int:
        """Returns how many news can be shown at any time."""
        return self.lasting + int(self.per_day * self.fresh_hours / 24)

    def count(self, days: int) -> int:
        """Returns how many news there are over so many days, those that were there at the start included."""
        return self.pool + (1 + self.per_day * days if self.per_day else 0)


class TasteSettings(Section):
    """Says what users like: each belongs to a group, whose taste for each topic is drawn, and differs from it.

    strength, difference: standard deviations of the group's taste and of a user's own part of it, in logits.
    drift: the deviation of a user's taste from what it is in the long run. drift_days: how long it takes to come back.
    segment_noise: share of users whose observable segment says nothing of their group.
    """

    groups: int = Field(default=20, gt=0, le=1_000_000)
    strength: Amount = 1.4
    difference: Amount = 0.8
    drift: Amount = 0.5
    drift_days: float = Field(default=7.0, gt=0)
    segment_noise: Share = 0.2


class ClickSettings(Section):
    """Says what is clicked: logit = bias + taste + quality - age x hours - boredom x exposure to the topic.

    boredom_hours: how long it takes until an exposure counts for 1/e.
    """

    bias: float = Field(default=-3.0, ge=-1e6, le=1e6)
    age: Amount = Field(default=0.03, description="logits an hour")
    boredom: Amount = Field(default=0.2, description="logits an exposure")
    boredom_hours: float = Field(default=24.0, gt=0)


class ReturnSettings(Section):
    """Says when users return: by a hazard that rises with satisfaction, hazard x exp(gain (satisfaction - middle)).

    A visit satisfies, from 0 to 1, by (1 - diversity) (1 - exp(-depth of all that is clicked)) + diversity x that of
    its list. memory: the weight of the latest visit in a user's satisfaction. rhythm: how much more users come at 20 h
    than on average, as a share. lost_days: users who are away for so long count as lost.
    """

    hazard: float = Field(default=1.2e-5, gt=0, le=1, description="a second")
    gain: float = Field(default=5.0, ge=0, le=100)
    middle: Share = 0.35
    memory: Share = 0.2
    diversity: Share = 0.15
    rhythm: Share = 0.5
    lost_days: float = Field(default=7.0, gt=0)


class DuelSettings(Section):
    """Says how far dueling bandits perturb a net, and how far it moves; the defaults are the DRN paper's.

    update: `along` is W += eta (W~ - W). `printed` is the paper's equation 8 as it is printed, W += eta W~, by which
    every win also makes W larger by 1 + eta.
    """

    alpha: float = Field(default=0.1, gt=0, lt=1, description="largest relative change of a weight")
    eta: float = Field(default=0.05, gt=0, le=1, description="how far W moves when W~ wins")
    update: Literal["along", "printed"] = "along"
    tau: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="interleaved lists draw by 1 / rank^tau; null: the best that is left"
    )


class ExplorationSettings(Section):
    """Says how policies explore: `epsilon` is the share of places that epsilon-greedy ones fill at random."""

    epsilon: float = Field(default=0.1, ge=0, le=1)
    duel: DuelSettings = DuelSettings()


class LinUCBSettings(Section):
    """Says how much LinUCB explores (`alpha`), and how strongly its weights are held back (`ridge`)."""

    alpha: Amount = 0.25
    ridge: float = Field(default=1.0, ge=1e-6, le=1e6)


class SimulationSettings(Section):
    """A simulation serves `users` for `days`, by each of `policies`, under seeds 0, 1, ..., `seeds` - 1.

    Every visit is one request, with `candidates` news of which `shown` are shown. minor_minutes, major_days: how often
    policies learn a little and a lot. log_days: how many days of the log stay on disk; default: all. major_log_days: on
    how many of these a major update trains, the last ones; default: all.
    """

    users: int = Field(default=10_000, gt=0, le=10_000_000)
    days: Count = 30
    policies: tuple[str, ...] = Field(default=("random", "popularity", "linucb"), min_length=1, max_length=1000)
    seeds: int = Field(default=5, gt=0, le=100_000)
    tick_minutes: float = Field(default=30.0, ge=0.1, le=DAY_MINUTES)
    minor_minutes: float = Field(default=30.0, gt=0)
    major_days: Count = 1
    candidates: int = Field(default=30, gt=0, le=10_000)
    shown: int = Field(default=5, gt=0, le=10_000)
    log_days: Count | None = None
    major_log_days: Count | None = None
    news: NewsSettings = NewsSettings()
    tastes: TasteSettings = TasteSettings()
    clicks: ClickSettings = ClickSettings()
    returns: ReturnSettings = ReturnSettings()
    activeness: ActivenessConfig = ActivenessConfig()
    exploration: ExplorationSettings = ExplorationSettings()
    linucb: LinUCBSettings = LinUCBSettings()

    @field_validator("policies", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> "SimulationSettings":
        if (twice := given_twice(self.policies)) is not None:
            raise ValueError(f"policies: {twice!r} is named twice; name it once")
        if self.shown > self.candidates:
            raise ValueError(f"shown: {self.shown} of {self.candidates} candidates cannot be shown; ask for fewer")
        if self.news.pool < self.candidates:
            raise ValueError(
                f"candidates: {self.candidates} are asked for, but only {self.news.pool} news can be shown at a time; "
                "ask for fewer, or raise news.per_day, news.fresh_hours or news.lasting"
            )
        for name, minutes, whole in (
            ("tick_minutes", DAY_MINUTES / self.tick_minutes, "a day"),
            ("minor_minutes", self.minor_minutes / self.tick_minutes, "a whole number of ticks"),
        ):
            if not isclose(minutes, round(minutes)) or round(minutes) < 1:
                expected = f"a part of {whole}" if name == "tick_minutes" else whole
                raise ValueError(f"{name}: expected {expected}, found {getattr(self, name):g} minutes")
        return self

    @property
    def tick_seconds(self) -> float:
        """Returns the length of a tick."""
        return 60 * self.tick_minutes

    @property
    def ticks_of_day(self) -> int:
        """Returns how many ticks a day has."""
        return round(DAY_MINUTES / self.tick_minutes)

    @property
    def ticks_of_minor(self) -> int:
        """Returns how many ticks pass between two minor updates."""
        return round(self.minor_minutes / self.tick_minutes)
