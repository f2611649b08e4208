"""Dot products of all pairs of vectors: what DLRM (and an inner-product network) feeds to its MLP."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PairwiseDots(nn.Module):
    """<v_i, v_j> of all pairs i < j: [B, n, D] -> [B, n (n - 1) / 2], in the order (0, 1), (0, 2), ..., (n - 2, n - 1).

    One batched product and one gather; the gradient is a gather and one product too, half of what autograd would do.
    """

    pairs: Tensor
    slots: Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        i, j = torch.triu_indices(num_vectors, num_vectors, 1)
        self.width = len(i)
        slots = torch.full((num_vectors, num_vectors), self.width)  # the diagonal reads a zero behind the last pair
        slots[i, j] = slots[j, i] = torch.arange(self.width)
        self.register_buffer("pairs", i * num_vectors + j, persistent=False)
        self.register_buffer("slots", slots.flatten(), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return _Dots.apply(vectors, self.pairs, self.slots)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, slots)
        return torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        vectors, slots = ctx.saved_tensors
        num_vectors = vectors.shape[1]
        both = F.pad(gradient, (0, 1)).index_select(1, slots).view(-1, num_vectors, num_vectors)
        return torch.bmm(both.to(vectors.dtype), vectors), None, None
