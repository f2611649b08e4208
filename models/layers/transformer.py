"""Transformer layers run over jagged sequences.

Projections, normalisations and feed-forward nets work on live positions only. Attention alone is padded, among rows
of nearly equal length: rows go by length and are cut into buckets whose widths grow by a fifth, so that at most a sixth
of a bucket's columns is padding (the first buckets, of one length each, have none).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.kernels.row_attention import RowAttentionKernel
from shardrec.models.layers.packing import inverse, regroup, rows_of_length

_GROWTH = 1.2  # of a bucket's width over the one before


class LengthBucket(NamedTuple):
    """A length bucket puts rows of nearly equal length, whose positions lie side by side, into `rows` x `width` slots.

    positions: how many there are; position: [rows * width] what stands in each slot, for padding any one;
    slot: [positions] the slot of each; mask: [rows, 1, 1, width], 0 at live slots and else -inf
    """

    rows: int
    width: int
    positions: int
    position: Tensor
    slot: Tensor
    mask: Tensor


class LengthBuckets(NamedTuple):
    """Length buckets say where M positions of B rows go.

    source: [M] the position, in the order of the batch, of each position in the buckets' order; reverse: [M] the other
    way; offsets: [B + 1], where rows begin in the buckets' order; parts: None where kernels attend within rows, which
    then stay in the order of the batch
    """

    source: Tensor
    reverse: Tensor
    parts: tuple[LengthBucket, ...] | None
    offsets: Tensor


def attended_rows(
    x: Tensor, lengths: Tensor, row: Tensor, offsets: Tensor, on_host: np.ndarray | None = None
) -> LengthBuckets:
    """Returns how the rows of x's positions are attended in: as they are by kernels, else by `bucket_by_length`."""
    if not are_compiled(x):
        return bucket_by_length(lengths, row, offsets, on_host)
    positions = torch.arange(len(row), device=row.device)
    return LengthBuckets(positions, positions, None, offsets)


def bucket_by_length(lengths: Tensor, row: Tensor, offsets: Tensor, on_host: np.ndarray | None = None) -> LengthBuckets:
    """Puts rows of nearly equal length into one bucket each.

    lengths: [B], row: [M] the row that owns each position, offsets: [B + 1]; on_host: `lengths` as the host has them,
    None: they are waited for
    """
    length, order = lengths.sort(stable=True)
    starts = length.cumsum(0) - length
    positions = torch.arange(len(row), device=lengths.device)
    reverse = starts[inverse(order)[row]] + positions - offsets[row]
    parts, first = [], 0
    for row_count, width, position_count in _widths(rows_of_length(lengths, on_host).tolist()):
        if width:
            parts.append(_bucket(length[first : first + row_count], width, position_count))
        first += row_count
    return LengthBuckets(inverse(reverse), reverse, tuple(parts), F.pad(length.cumsum(0), (1, 0)))


def _widths(rows_of_length: list[int]) -> list[tuple[int, int, int]]:
    """Returns rows, width and positions of each bucket, from the number of rows of each length."""
    buckets, first = [], 0
    while first < len(rows_of_length):
        last = max(first, int((first - 1) * _GROWTH)) if first else 0
        lengths = range(first, min(last, len(rows_of_length) - 1) + 1)
        row_count = sum(rows_of_length[n] for n in lengths)
        if row_count:
            buckets.append((row_count, lengths[-1], sum(n * rows_of_length[n] for n in lengths)))
        first = lengths[-1] + 1
    return buckets


def _bucket(length: Tensor, width: int, position_count: int) -> LengthBucket:
    """Lays out rows of the lengths [rows], in ascending order, in slots of `width` a row."""
    starts = (length.cumsum(0) - length).unsqueeze(1)
    column = torch.arange(width, device=length.device)
    live = column < length.unsqueeze(1)  # [rows, width]
    position = torch.where(live, starts + column, starts).flatten()
    slots = torch.arange(position.numel(), device=length.device)
    # a sort, unlike a mask, need not be counted by the host: live slots first, in their order
    slot = slots[torch.sort((~live).flatten().byte(), stable=True)[1][:position_count]]
    mask = torch.zeros(live.shape, device=length.device).masked_fill_(~live, -torch.inf)
    return LengthBucket(len(length), width, position_count, position, slot, mask[:, None, None])


class TransformerLayer(nn.Module):
    """S' = LayerNorm(S + Dropout(MH(S))), LayerNorm(S' + Dropout(W2 LeakyReLU(W1 S' + b1) + b2)).

    Vaswani et al., NIPS 2017, with Chen et al., DLP-KDD 2019, eqs. 1-5 (there the second sum is normalised as well).
    MH: per head, softmax(Q K^T / sqrt(d)) V over a row's positions.
    """

    causal = False  # whether a position attends to those of its row up to itself, and not to all

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        keep_at_zero(self.key.bias)  # a query's product with it is in all of its scores
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.attended_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, buckets: LengthBuckets) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[M, E] in the buckets' order -> [M, E], and each bucket's attention, [rows, heads, width, width].

        The kernels that compute it on CPUs keep no attention.
        """
        attended, weights = self._attend(x, buckets)
        x = self.attended_norm(x + self.dropout(self.output(attended)))
        return self.norm(x + self.dropout(self.down(F.leaky_relu(self.up(x))))), weights

    def padded(self, target: Tensor, events: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Runs over padded rows of a target and events: [B, 1, E], [B, L, E], live [B, 1 + L] bool -> the same two.

        Both are projected by themselves: what is of the events alone can be computed once for many targets.
        """
        query, key, value = (
            torch.cat([layer(target), layer(events)], 1).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, live[:, None, None]).transpose(1, 2).flatten(2)
        x = self.attended_norm(torch.cat([target, events], 1) + self.output(attended))
        x = self.norm(x + self.down(F.leaky_relu(self.up(x))))
        return x[:, :1], x[:, 1:]

    def mask_of(self, bucket: LengthBucket) -> Tensor:
        """Returns 0 where a position may be attended to and else -inf, [rows, 1, 1, width]: at padding."""
        return bucket.mask

    def _attend(self, x: Tensor, buckets: LengthBuckets) -> tuple[Tensor, tuple[Tensor, ...]]:
        three = [layer(x) for layer in (self.query, self.key, self.value)]
        if buckets.parts is None:
            return _RowAttention.apply(*three, buckets.offsets, self.heads, self.causal), ()
        counts = [bucket.positions for bucket in buckets.parts]
        projected = zip(*(x.split(counts) for x in three), strict=True)
        results = [self._attend_in(bucket, *three) for bucket, three in zip(buckets.parts, projected, strict=True)]
        return torch.cat([attended for attended, _ in results]), tuple(weights for _, weights in results)

    def _attend_in(self, bucket: LengthBucket, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        # no gradient comes to padding, so that of a slot's copy is that of its position
        query, key, value = (
            regroup(x, bucket.position, bucket.slot).view(bucket.rows, bucket.width, self.heads, -1).transpose(1, 2)
            for x in (query, key, value)
        )
        score = torch.matmul(query * self.scale, key.transpose(2, 3))
        weights = torch.softmax(score + self.mask_of(bucket).to(score.dtype), -1)
        block = torch.matmul(weights, value).transpose(1, 2).flatten(2).flatten(0, 1)
        return block.index_select(0, bucket.slot), weights


class _RowAttention(torch.autograd.Function):
    """Attends within rows without slots or arrays of scores, which backward makes anew."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, heads: int, causal: bool
    ) -> Tensor:
        attended, sums = RowAttentionKernel(query, key, value, offsets, heads, causal=causal).forward()
        ctx.save_for_backward(query, key, value, offsets, attended, sums)
        ctx.heads, ctx.causal = heads, causal
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, offsets, attended, sums = ctx.saved_tensors
        kernel = RowAttentionKernel(query, key, value, offsets, ctx.heads, causal=ctx.causal)
        return *kernel.backward(attended, sums, gradient), None, None, None
