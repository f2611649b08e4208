"""Cross layers make explicit feature crosses of bounded degree, without ever forming the matrix x_0 x_l^T."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.models.layers.logit import logits


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 (x_l . w_l) + b_l + x_l (Wang et al., ADKDD 2017, eq. 3), all layers in one matrix product.

    By induction x_l = s_l x_0 + c_l with a number s_l a row and c_l = b_0 + ... + b_{l-1}, so that
    s_{l+1} = s_l (1 + x_0 . w_l) + c_l . w_l: only x_0 . w_l is of the width of x_0.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers, width))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        return self._scale(x)[:, None] * x + self.bias.sum(0)

    def read_by(self, weight: Tensor, x: Tensor) -> Tensor:
        """Returns x_L . weight, [width] and [n, width] -> [n], without forming x_L: s_L (x_0 . weight) + c_L . weight.

        x_0 . weight is as exact as a `Logit`.
        """
        return self._scale(x) * logits(x, weight[None]).squeeze(1) + (self.bias.sum(0) * weight).sum()

    def _scale(self, x: Tensor) -> Tensor:
        """Returns s_L, [n]."""
        products = F.linear(x, self.weight)  # [n, layers]
        before = self.bias.cumsum(0) - self.bias  # c_l
        constants = (before * self.weight).sum(1)
        scale = x.new_ones(x.shape[0])
        for product, constant in zip(products.unbind(1), constants.unbind(0), strict=True):
            scale = scale + scale * product + constant
        return scale


class CrossLayer(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l (Wang et al., WWW 2021, eq. 1), W of full rank."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[n, width] twice -> [n, width]."""
        return x0 * self.linear(x) + x


class LowRankCross(nn.Module):
    """x_{l+1} = x_0 * (U (V^T x_l) + b) + x_l: W of rank `rank` (Wang et al., WWW 2021, eq. 2)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[n, width] twice -> [n, width]."""
        return x0 * self.up(self.down(x)) + x


class CrossExperts(nn.Module):
    """x_{l+1} = sum_k G_k(x_l) x_0 * (U_k g(C_k g(V_k^T x_l)) + b) + x_l (Wang et al., WWW 2021, eqs. 3 and 4).

    g is tanh and G a softmax over the experts of a linear map of x_l. As gates sum to one, experts are added up before
    U: one product of width `experts * rank` serves all of them.
    """

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.gate = nn.Linear(width, experts)
        self.down = nn.Linear(width, experts * rank, bias=False)
        self.inner = nn.Parameter(torch.empty(experts, rank, rank))  # C_k transposed
        self.up = nn.Linear(experts * rank, width)
        nn.init.uniform_(self.inner, -(rank**-0.5), rank**-0.5)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[n, width] twice -> [n, width]."""
        share = torch.softmax(self.gate(x), 1)  # [n, experts]
        projected = torch.tanh(self.down(x)).unflatten(1, (self.experts, -1)).transpose(0, 1)  # [experts, n, rank]
        projected = torch.tanh(torch.bmm(projected, self.inner)).transpose(0, 1)
        return x0 * self.up((share[:, :, None] * projected).flatten(1)) + x
