"""A world whose rewards are known, the logs of one policy in it, and how far estimates of another one are off."""

from dataclasses import dataclass, field
from math import log

import numpy as np

from shardrec.trainer.off_policy.estimators import Weighed, ratios
from shardrec.trainer.off_policy.intervals import Estimate, Floats, Resampling, estimates
from shardrec.trainer.off_policy.reward_models import MeanRewards, folds

KINDS, POSITIONS, ACTIONS = 4, 3, 6


def _softmax(scores: Floats) -> Floats:
    mass = np.exp(scores)
    return np.asarray(mass / mass.sum(-1, keepdims=True))


@dataclass
class World:
    """Users of some kinds come to positions; the log's policy and the judged one choose by kind. [kinds, ...] each.

    The reward model knows positions and actions, but not kinds: it is wrong, as reward models are.
    """

    rewards: Floats = field(init=False)
    logs: Floats = field(init=False)
    judged: Floats = field(init=False)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(5)
        self.rewards = draw.uniform(0.05, 0.6, (KINDS, POSITIONS, ACTIONS))
        self.logs = _softmax(draw.normal(0, 0.7, (KINDS, ACTIONS)))
        self.judged = _softmax(draw.normal(0, 1.0, (KINDS, ACTIONS)))

    @property
    def value(self) -> float:
        """What the judged policy earns a row: kinds and positions are all as likely."""
        return float((self.judged[:, None] * self.rewards).sum(-1).mean())

    def log(self, rows: int, seed: int) -> Weighed:
        """A log of so many rows under the judged policy, with cross-fitted mean rewards."""
        draw = np.random.default_rng([7, rows, seed])
        kind, position = draw.integers(KINDS, size=rows), draw.integers(POSITIONS, size=rows)
        action = (draw.random(rows)[:, None] > self.logs[kind].cumsum(-1)[:, :-1]).sum(-1)
        reward = (draw.random(rows) < self.rewards[kind, position, action]).astype(np.float64)
        fold = folds(None, rows)
        means = MeanRewards.fit(reward, position, action, fold)
        each = means(fold[:, None], position[:, None], np.arange(means.means.shape[-1] - 1)[None])
        each = np.pad(each, ((0, 0), (0, ACTIONS - each.shape[1])))  # actions that a short log lacks
        return Weighed(
            reward=reward,
            propensity=self.logs[kind, action],
            probability=self.judged[kind, action],
            predicted=means(fold, position, action),
            expected=(self.judged[kind] * each).sum(-1),
            candidates=np.full(rows, ACTIONS),
        )


@dataclass
class Judged:
    """What many logs give: of each estimator its values and how often the truth was inside its intervals."""

    values: dict[str, Floats]
    inside: dict[str, float]
    inside_normal: dict[str, float]

    def bias(self, name: str, truth: float) -> tuple[float, float]:
        """The mean error and its standard error."""
        errors = self.values[name] - truth
        return float(errors.mean()), float(errors.std(ddof=1) / len(errors) ** 0.5)


def judge(logs: int, rows: int, resamples: int) -> Judged:
    """Estimates from so many logs, by the code that the command runs."""
    world, found = World(), list[dict[str, Estimate]]()
    for seed in range(logs):
        asked = {k: r for k, r in ratios(world.log(rows, seed)).items() if k in ("ips", "snips", "doubly_robust")}
        found.append(estimates(asked, how=Resampling(resamples=resamples, seed=seed)))
    names = found[0]
    return Judged(
        {k: np.array([one[k].value for one in found]) for k in names},
        {k: float(np.mean([one[k].contains(world.value) for one in found])) for k in names},
        {k: float(np.mean([one[k].normal_low <= world.value <= one[k].normal_high for one in found])) for k in names},
    )


def snips_bias(rows: int, logs: int) -> float:
    """The bias of self-normalised weights: a / b less the truth, but for its linear part, whose mean is 0.

    With a = mean of w r and b = mean of w, whose means are the truth and 1, a / b - v = (a - v b) / b, and a - v b has
    mean 0: what is left, (a - v b) (1 / b - 1), has the same mean and a spread that falls as 1 / n, too.
    """
    world, draw = World(), np.random.default_rng([11, rows])
    kind = draw.integers(KINDS, size=(logs, rows))
    position = draw.integers(POSITIONS, size=(logs, rows))
    action = (draw.random((logs, rows))[..., None] > world.logs[kind].cumsum(-1)[..., :-1]).sum(-1)
    reward = draw.random((logs, rows)) < world.rewards[kind, position, action]
    weight = world.judged[kind, action] / world.logs[kind, action]
    a, b = (weight * reward).mean(1), weight.mean(1)
    return float(np.mean((a - world.value * b) * (1 / b - 1)))


def snips_slope(sizes: tuple[int, ...], logs: int) -> float:
    """The slope of the logarithm of the bias by that of the number of rows: -1 where the bias falls as 1 / n."""
    biases = [abs(snips_bias(rows, logs)) for rows in sizes]
    return float(np.polyfit([log(rows) for rows in sizes], [log(bias) for bias in biases], 1)[0])
