"""User activeness by survival analysis: it decays between returns, and each return adds to it.

Zheng et al., "DRN: A Deep Reinforcement Learning Framework for News Recommendation" (WWW 2018), section 4.4: with a
constant hazard lambda0 between returns, S(t) = S(t0) exp(-lambda0 (t - t0)); a return adds S_a; never above 1.
"""

import numpy as np
from pydantic import Field

from shardrec.trainer.config.sections import Section


class ActivenessConfig(Section):
    """Says how activeness moves; the defaults are the paper's."""

    hazard: float = Field(default=1.2e-5, gt=0, description="lambda0 per second: how fast activeness decays")
    gain: float = Field(default=0.32, ge=0, le=1, description="S_a: what a return adds")
    start: float = Field(default=0.5, ge=0, le=1, description="S_0: that of a user who was never seen")


class Activeness:
    """Activeness is a number from 0 to 1 for each of some users, known at any time from their last return on."""

    def __init__(self, users: int, config: ActivenessConfig | None = None, *, time: float = 0.0) -> None:
        self.config = config or ActivenessConfig()
        self.value = np.full(users, self.config.start)
        self.since = np.full(users, float(time))

    def at(self, time: float | np.ndarray, users: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the activeness of `users` ([n] numbers; all by default) at a time in seconds: [n] float64.

        A time before a user's last return is taken for that return's.
        """
        passed = np.maximum(time - self.since[users], 0.0)
        return self.value[users] * np.exp(-self.config.hazard * passed)

    def returned(self, users: np.ndarray, time: float | np.ndarray) -> np.ndarray:
        """Notes that `users`, each named once, came back at a time in seconds; returns their activeness since then."""
        value = np.minimum(self.at(time, users) + self.config.gain, 1.0)
        self.value[users] = value
        self.since[users] = np.maximum(time, self.since[users])
        return value
