"""Dueling bandit gradient descent: a perturbed copy of a net takes over, a little, where its list wins the clicks.

Yue & Joachims (ICML 2009) as in the DRN paper, section 4.5: W~ = W + dW with dW = alpha rand(-1, 1) W; both nets' lists
are interleaved, and where W~'s items got more clicks than W's, W moves along the perturbation.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.settings import DuelSettings


class DuelingBandit:
    """A duel is fought over a minor period: W and W~ = W + alpha rand(-1, 1) W, and the clicks that each one got.

    parameters: by name, float32 on CPU; they are moved in place. The perturbation of a period is a pure function of
    `seed`, `period` and W.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: DuelSettings | None = None, *, seed: int = 0) -> None:
        self.parameters = dict(parameters)
        self.config = config or DuelSettings()
        self.seed, self.period = seed, 0
        self.clicks = np.zeros(2, np.int64)
        self._perturbed: dict[str, Tensor] | None = None

    @property
    def perturbed(self) -> dict[str, Tensor]:
        """Returns W~ of this period, by name."""
        if self._perturbed is None:
            draw = draws(self.seed, "perturbation", self.period)
            self._perturbed = {name: self._moved(weight, draw) for name, weight in self.parameters.items()}
        return self._perturbed

    def _moved(self, weight: Tensor, draw: np.random.Generator) -> Tensor:
        step = torch.from_numpy(draw.uniform(-1, 1, tuple(weight.shape)).astype(np.float32))
        return weight.detach() + self.config.alpha * step * weight.detach()

    def credit(self, source: np.ndarray, clicks: np.ndarray) -> None:
        """Counts clicks [R, L] bool on what came from W, `source` 0, and from W~, 1."""
        self.clicks += np.bincount(source[clicks], minlength=2)[:2]

    @torch.no_grad()
    def decide(self) -> bool:
        """Ends the period: moves W where W~ got more clicks, and leaves it bit for bit otherwise; says which."""
        won = bool(self.clicks[1] > self.clicks[0])
        if won:
            for name, weight in self.parameters.items():
                towards = self.perturbed[name] - (weight if self.config.update == "along" else 0.0)
                weight.add_(towards, alpha=self.config.eta)
        self.next_period()
        return won

    def next_period(self) -> None:
        """Begins another period, with another perturbation and no clicks yet."""
        self.period += 1
        self.clicks[:] = 0
        self._perturbed = None
