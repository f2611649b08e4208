"""Attention over pairs of fields says which crossings matter."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardrec.models.layers.kernels.attention import AttentionKernel
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.pieces import row_blocks

_NUMBERS_AT_ONCE = 1 << 18  # on CPUs, of [P, b, D]: 1 MiB in fp32 stays in a core's cache and off the page-fault path


class PairAttention(nn.Module):
    """y = sum_{i<j} a_ij (v_i * v_j), a = softmax over pairs of h . relu(W (v_i * v_j) + b) (Xiao et al., IJCAI 2017).

    Eqs. 4 and 5. Pairs are in the order (0, 1), (0, 2) ..., (F - 2, F - 1), P = F (F - 1) / 2 of them. Inside, fields
    come first ([P, B, D]): taking a pair copies whole blocks, forward and backward. A CPU takes some rows at a time,
    which is four times faster than all of a batch of 4096 at F = 26, D = 16. dropout: of the weights a_ij, as in the
    authors' code: in training a pair is left out, or counts 1 / (1 - dropout) times as much.
    """

    first: Tensor
    second: Tensor

    def __init__(self, num_fields: int, width: int, attention_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        first, second = torch.triu_indices(num_fields, num_fields, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.hidden = nn.Linear(width, attention_size)
        self.score = nn.Linear(attention_size, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.hidden.bias)  # products start tiny: a bias would switch a unit on or off for all pairs

    def forward(self, factors: Tensor) -> Tensor:
        """[B, F, D] -> [B, D]."""
        leaves_out = self.training and self.dropout.p > 0
        if not leaves_out and factors.dtype == torch.float32 and are_compiled(factors, *self.parameters()):
            return _CompiledAttention.apply(factors, self.hidden.weight, self.hidden.bias, self.score.weight)
        blocks = row_blocks(factors, len(self.first) * factors.shape[2], _NUMBERS_AT_ONCE)
        return torch.cat([self._pooled(block) for block in blocks])

    def weights(self, factors: Tensor) -> Tensor:
        """Returns the attention a, before dropout: [B, F, D] -> [B, P], rows of sum 1."""
        return self._weights(self._pairs(factors)).T

    def _pooled(self, factors: Tensor) -> Tensor:
        pairs = self._pairs(factors)
        return (self.dropout(self._weights(pairs))[:, :, None] * pairs).sum(0)

    def _pairs(self, factors: Tensor) -> Tensor:
        fields_first = factors.transpose(0, 1).contiguous()
        return fields_first.index_select(0, self.first) * fields_first.index_select(0, self.second)  # [P, B, D]

    def _weights(self, pairs: Tensor) -> Tensor:
        score = self.score(torch.relu(self.hidden(pairs.flatten(0, 1))))  # [P B, 1]
        return torch.softmax(score.view(pairs.shape[:2]), 0)


class _CompiledAttention(torch.autograd.Function):
    """Pools pairs that are made anew in backward, so that no array of pairs is; in fp32, under autocast too."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, weight: Tensor, bias: Tensor, score: Tensor) -> Tensor:
        pooled, weights = AttentionKernel(factors, weight, bias, score).forward()
        ctx.save_for_backward(factors, weight, bias, score, weights, pooled)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        *operands, weights, pooled = ctx.saved_tensors
        return AttentionKernel(*operands).backward(pooled, weights, gradient)
