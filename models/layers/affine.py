"""The affine part belongs to no table: it is the global bias and the weights of dense features."""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """y = w0 + sum_i w_i x_i, weights from 0, w0 from `start`; without dense features there is only w0."""

    def __init__(self, num_features: int, start: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), start))
        self.weight = nn.Parameter(torch.zeros(num_features)) if num_features else None

    def forward(self, dense: Tensor) -> Tensor:
        """[B, N] -> [B]."""
        if self.weight is None:
            return self.bias.expand(dense.shape[0])
        # no matrix product, which autocast would round: dense features may be large
        return self.bias + (dense * self.weight).sum(1)
