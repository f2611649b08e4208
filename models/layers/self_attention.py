"""Self-attention lets a row's fields attend to each other, in several heads."""

import torch
from torch import Tensor, nn


class FieldAttention(nn.Module):
    """Field attention is one interacting layer of AutoInt (Song et al., CIKM 2019, eqs. 5-8).

    Per head: a_mk = softmax over k of <W_q e_m, W_k e_k>, e~_m = sum_k a_mk W_v e_k; the heads side by side, then
    relu(e~_m + W_res e_m). `scale` divides the products by sqrt(head_dim), which the authors' code does, eq. 5 not.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, scale: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = head_dim**-0.5 if scale else 1.0
        self.width = heads * head_dim
        # four products: views of one wide result would all be copied on their way into attention
        self.query, self.key, self.value, self.residual = (nn.Linear(dim, self.width, bias=False) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.residual):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, field: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, heads * head_dim]."""
        query, key, value = (
            layer(field).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        # torch's fused attention is 8 times slower on CPUs under matmul precision "medium"
        weights = torch.softmax(torch.matmul(query * self.scale, key.transpose(2, 3)), -1)  # [B, heads, F, F]
        attended = torch.matmul(weights, value)  # [B, heads, F, head_dim]
        return torch.relu(attended.transpose(1, 2).flatten(2) + self.residual(field))
