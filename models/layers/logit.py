"""The logit is the last layer of a tower."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Logit(nn.Linear):
    """A logit is a linear layer to what a task reads, computed in its weights' precision whatever autocast says.

    bf16 has 8 bits: logits rounded to it would tie rows that the tower tells apart, which AUC and ranks suffer from.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] of any dtype -> [..., out_features]."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
