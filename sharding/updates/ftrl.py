"""FTRL-Proximal with L1 leaves unused weights exactly 0 (Wide&Deep's wide part, logistic regression)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.sharding.updates.rules import RowUpdate

_CHUNK = 4 << 20  # weights of a table that a warm start has in work at once


@dataclass(frozen=True, kw_only=True)
class Ftrl(RowUpdate):
    """FTRL-Proximal, per coordinate (McMahan et al., KDD 2013, algorithm 1), alpha being the learning rate:

        s = (sqrt(n + g^2) - sqrt(n)) / alpha      z += g - s w      n += g^2
        w = 0 if |z| <= l1 else -(z - sign(z) l1) / c,   c = (beta + sqrt(n)) / alpha + l2

    Where w is not 0 the last line gives z = -c w - sign(w) l1, so that the new z is g - c' w - sign(w) l1 with c' of
    the new n. It is computed so, because that stays right when alpha changes between two steps of a row (a schedule):
    s is then c' less the c that the row had, whereas z and n of one alpha, read with another, would rescale every
    weight. A gradient of 0 leaves w bit for bit, and so does a learning rate of 0.

    g is of the loss summed over the global batch, as the paper's examples come one by one: beside a mean's g, some
    1 / batch size of that, sqrt(n) would stay far below any beta of the order of 1, and z below any such l1.

    Weights are stored beside z and n, so that lookups read them. Fresh rows are as any optimizer's, with n = 0 and the
    z of which they follow: 0 where they are 0, as in the paper, and else -c w - sign(w) l1. From 0 alone factors that
    multiply each other would have gradients of 0, and stay.
    """

    of_summed_loss: ClassVar[bool] = True
    holds_weights: ClassVar[bool] = True

    beta: float
    l1: float
    l2: float

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of z and n."""
        return {"z": (rows, columns), "n": (rows, columns)}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Takes the gradient into n and z and solves for the row; where g is 0 the row stays."""
        z, n = state["z"], state["n"].addcmul_(g, g)
        if learning_rate == 0:
            return
        c = n.sqrt().add_(self.beta).div_(learning_rate).add_(self.l2)
        torch.where(row == 0, z, self._z(row, c), out=z)
        z += g
        torch.where(g == 0, row, F.softshrink(z, self.l1).div_(c.neg_()), out=row)

    @torch.no_grad()
    def warm_start(self, weight: Tensor, state: Mapping[str, Tensor]) -> None:
        """Sets n to 0 and z to that of weights [rows, columns] from elsewhere, so that a gradient of 0 leaves them."""
        state["n"].zero_()
        c = self.beta / self.learning_rate + self.l2
        step = max(1, _CHUNK // max(1, weight.shape[1]))
        for start in range(0, len(weight), step):
            chunk = weight[start : start + step].float()
            z = self._z(chunk, torch.tensor(c, device=chunk.device))
            state["z"][start : start + step] = z.add_(0.0)  # no -0, whose bits are not those of a z that is 0

    def _z(self, weight: Tensor, c: Tensor) -> Tensor:
        return weight.sign().mul_(-self.l1).addcmul_(weight, c, value=-1)
