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
        if torch.compiler.is_exporting():  # programs are fp32, and autocast would be a graph inside of theirs
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
