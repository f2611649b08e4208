"""Dueling bandit gradient descent: a perturbed copy of a net takes over, a little, where its list wins the clicks.

Yue & Joachims (ICML 2009) as in the DRN paper, section 4.5: W~ = W + dW with dW = alpha rand(-1, 1) W; both nets' lists
are interleaved, and where W~'s items got more clicks than W's, W moves along the perturbation.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from shardrec.trainer.config.sections import Section

_PURPOSE = 0xDB6D  # what sets these draws apart from others under the same seed


class DuelConfig(Section):
    """Says how far the net is perturbed, and how far it moves; the defaults are the paper's.

    update: `along` is W += eta (W~ - W). `printed` is the paper's equation 8 as it is printed, W += eta W~, by which
    every win also makes W larger by 1 + eta.
    """

    alpha: float = Field(default=0.1, gt=0, lt=1, description="largest relative change of a weight")
    eta: float = Field(default=0.05, gt=0, le=1, description="how far W moves when W~ wins")
    update: Literal["along", "printed"] = "along"


class DuelingBandit:
    """A duel is fought over a minor period: W and W~ = W + alpha rand(-1, 1) W, and the clicks that each one got.

    parameters: by name, float32 on CPU; they are moved in place. The perturbation of a period is a pure function of
    `seed`, `period` and W.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: DuelConfig | None = None, *, seed: int = 0) -> None:
        self.parameters = dict(parameters)
        self.config = config or DuelConfig()
        self.seed, self.period = seed, 0
        self.clicks = np.zeros(2, np.int64)
        self._perturbed: dict[str, Tensor] | None = None

    @property
    def perturbed(self) -> dict[str, Tensor]:
        """Returns W~ of this period, by name."""
        if self._perturbed is None:
            key = np.array([self.seed % 2**64, _PURPOSE], np.uint64)
            draw = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.period]))
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
