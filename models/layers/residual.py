"""A residual unit adds to a vector what two linear layers make of it."""

import torch
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """y = relu(F(x) + x), F(x) = W1 relu(W0 x + b0) + b1 (Shan et al., KDD 2016, eq. 3).

    hidden: columns between the two linear layers. dropout: of F(x).
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        return torch.relu(self.dropout(self.up(torch.relu(self.down(x)))) + x)
