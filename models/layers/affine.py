"""The linear part that belongs to no table: global bias and weights of dense features."""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """w0 + sum_i w_i x_i: [B, N] -> [B], weights from 0, w0 from `start`. Without dense features there is only w0."""

    def __init__(self, num_features: int, start: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), start))
        self.weight = nn.Parameter(torch.zeros(num_features)) if num_features else None

    def forward(self, dense: Tensor) -> Tensor:
        if self.weight is None:
            return self.bias.expand(dense.shape[0])
        # no matrix product, which autocast would round: dense features may be large
        return self.bias + (dense * self.weight).sum(1)
