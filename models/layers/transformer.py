"""Transformer layers over jagged sequences.

Projections, normalisations and feed-forward nets work on live positions only. Attention alone is padded, among rows
of nearly equal length: rows go by length and are cut into buckets whose widths grow by a fifth, so that at most a sixth
of a bucket's columns is padding beyond the single widths at the start.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.models.layers.packing import regroup

_GROWTH = 1.2  # of a bucket's width over the one before


class Bucket(NamedTuple):
    """Some rows whose positions lie side by side, and their places in a block of `rows` x `width` slots.

    positions: how many there are; position: [rows * width] what stands in each slot, for padding any one;
    slot: [positions] the slot of each; mask: [rows, 1, 1, width], 0 at live slots and else -inf
    """

    rows: int
    width: int
    positions: int
    position: Tensor
    slot: Tensor
    mask: Tensor


class Buckets(NamedTuple):
    """Where M positions of B rows go. source: [M] position in the order of the batch; reverse: [M] the other way."""

    source: Tensor
    reverse: Tensor
    parts: tuple[Bucket, ...]


def bucket_rows(lengths: Tensor, row: Tensor, offsets: Tensor) -> Buckets:
    """lengths: [B], row: [M] the row that owns each position, offsets: [B + 1]. Waits for the device once."""
    length, order = lengths.sort(stable=True)
    device = lengths.device
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=device))
    starts = length.cumsum(0) - length
    positions = torch.arange(len(row), device=device)
    reverse = starts[place[row]] + positions - offsets[row]
    source = torch.empty_like(reverse).index_copy_(0, reverse, positions)
    parts, first = [], 0
    for rows, width, count in _widths(torch.bincount(lengths).tolist()):
        if width:
            parts.append(_bucket(length[first : first + rows], width, count))
        first += rows
    return Buckets(source, reverse, tuple(parts))


def _widths(rows_of_length: list[int]) -> list[tuple[int, int, int]]:
    """Rows, width and positions of each bucket, from the number of rows of each length."""
    found, first = [], 0
    while first < len(rows_of_length):
        last = max(first, int((first - 1) * _GROWTH)) if first else 0
        together = range(first, min(last, len(rows_of_length) - 1) + 1)
        rows = sum(rows_of_length[n] for n in together)
        if rows:
            found.append((rows, together[-1], sum(n * rows_of_length[n] for n in together)))
        first = together[-1] + 1
    return found


def _bucket(length: Tensor, width: int, count: int) -> Bucket:
    starts = (length.cumsum(0) - length).unsqueeze(1)
    column = torch.arange(width, device=length.device)
    live = column < length.unsqueeze(1)  # [rows, width]
    position = torch.where(live, starts + column, starts).flatten()
    slots = torch.arange(position.numel(), device=length.device)
    # a sort, unlike a mask, need not be counted by the host: live slots first, in their order
    slot = slots[torch.sort((~live).flatten().byte(), stable=True)[1][:count]]
    mask = torch.zeros(live.shape, device=length.device).masked_fill_(~live, -torch.inf)
    return Bucket(len(length), width, count, position, slot, mask[:, None, None])


class TransformerLayer(nn.Module):
    """S' = LayerNorm(S + Dropout(MH(S))), LayerNorm(S' + Dropout(W2 LeakyReLU(W1 S' + b1) + b2)).

    Vaswani et al., NIPS 2017, with Chen et al., DLP-KDD 2019, eqs. 1-5 (there the second sum is normalised as well).
    MH: per head, softmax(Q K^T / sqrt(d)) V over a row's positions.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.attended_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, buckets: Buckets) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[M, E] in the buckets' order -> [M, E], and each bucket's attention, [rows, heads, width, width]."""
        attended, weights = self._attend(x, buckets)
        x = self.attended_norm(x + self.dropout(self.output(attended)))
        return self.norm(x + self.dropout(self.down(F.leaky_relu(self.up(x))))), weights

    def _attend(self, x: Tensor, buckets: Buckets) -> tuple[Tensor, tuple[Tensor, ...]]:
        counts = [part.positions for part in buckets.parts]
        projected = zip(*(layer(x).split(counts) for layer in (self.query, self.key, self.value)), strict=True)
        found = [self._in_block(part, *three) for part, three in zip(buckets.parts, projected, strict=True)]
        return torch.cat([attended for attended, _ in found]), tuple(weights for _, weights in found)

    def _in_block(self, part: Bucket, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        # no gradient comes to padding, so that of a slot's copy is that of its position
        query, key, value = (
            regroup(x, part.position, part.slot).view(part.rows, part.width, self.heads, -1).transpose(1, 2)
            for x in (query, key, value)
        )
        score = torch.matmul(query * self.scale, key.transpose(2, 3))
        weights = torch.softmax(score + part.mask.to(score.dtype), -1)
        block = torch.matmul(weights, value).transpose(1, 2).flatten(2).flatten(0, 1)
        return block.index_select(0, part.slot), weights
