"""Columns of the collections' wide outputs [B, all columns] become the tower's inputs in one pass, gradients likewise.

Slicing and stacking with autograd would zero-fill and add a whole [B, all columns] buffer for every input; here
backward writes every column once. Features that lie side by side in one collection come out as a view, uncopied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A piece is where a feature's vector lies: columns [start, start + dim) of a source, stored `physical` wide."""

    source: int
    start: int
    dim: int
    physical: int


@dataclass(frozen=True)
class ColumnBlock:
    """A block is one output: its features' pieces, as [B, F, D], or side by side as [B, sum of D] where `concat`."""

    pieces: tuple[Piece, ...]
    concat: bool

    @property
    def adjacent(self) -> bool:
        """Says whether the pieces follow each other in one source and need no copy to become the output."""
        first = self.pieces[0]
        if self.concat and any(p.dim != p.physical for p in self.pieces):
            return False
        start = first.start
        for piece in self.pieces:
            if (piece.source, piece.start, piece.physical) != (first.source, start, first.physical):
                return False
            start += piece.physical
        return True


def assemble_columns(blocks: Sequence[ColumnBlock], sources: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns one tensor per block from sources [B, columns] of fp32."""
    return _Assemble.apply(tuple(blocks), *sources)


def _view(block: ColumnBlock, source: Tensor) -> Tensor:
    """Returns an adjacent block's columns of a source, or of its gradient, as a view."""
    first, count = block.pieces[0], len(block.pieces)
    columns = source[:, first.start : first.start + count * first.physical]
    return columns if block.concat else columns.unflatten(1, (count, first.physical))[..., : first.dim]


def _copy(block: ColumnBlock, sources: Sequence[Tensor]) -> Tensor:
    dims = [p.dim for p in block.pieces]
    output = sources[0].new_empty(len(sources[0]), sum(dims))
    for piece, columns in zip(block.pieces, output.split(dims, dim=1), strict=True):
        columns.copy_(sources[piece.source][:, piece.start : piece.start + piece.dim])
    return output if block.concat else output.unflatten(1, (len(dims), dims[0]))


class _Assemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: tuple[ColumnBlock, ...], *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.blocks, ctx.shapes = blocks, [s.shape for s in sources]
        return tuple(_view(b, sources[b.pieces[0].source]) if b.adjacent else _copy(b, sources) for b in blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        blocks: tuple[ColumnBlock, ...] = ctx.blocks
        pieces = [p for b in blocks for p in b.pieces]
        once = len(set(pieces)) == len(pieces) and sum(p.physical for p in pieces) == sum(s[1] for s in ctx.shapes)
        make = torch.empty if once else torch.zeros
        like = gradients[0]
        whole = _whole(blocks[0], gradients[0], ctx.shapes[0]) if once and len(blocks) == len(ctx.shapes) == 1 else None
        if whole is not None:
            _clear_padding(blocks[0], [whole])
            return None, whole
        into = [make(shape, dtype=torch.float32, device=like.device) for shape in ctx.shapes]
        for block, gradient in zip(blocks, gradients, strict=True):
            if once and block.adjacent:
                _view(block, into[block.pieces[0].source]).copy_(gradient)
            else:
                dims = [p.dim for p in block.pieces]
                for piece, columns in zip(block.pieces, gradient.flatten(1).split(dims, dim=1), strict=True):
                    target = into[piece.source][:, piece.start : piece.start + piece.dim]
                    target.copy_(columns) if once else target.add_(columns)
            if once:
                _clear_padding(block, into)
        return (None, *into)


def _whole(block: ColumnBlock, gradient: Tensor, shape: torch.Size) -> Tensor | None:
    """Returns the source's gradient where a block's is laid out in its columns already, padding not filled in."""
    if not block.adjacent or gradient.dtype != torch.float32:
        return None
    if gradient.stride() != _view(block, torch.empty(shape, device="meta")).stride():
        return None
    numbers = gradient.untyped_storage().nbytes() // gradient.element_size() - gradient.storage_offset()
    return gradient.as_strided(shape, (shape[1], 1)) if numbers >= shape.numel() else None


def _clear_padding(block: ColumnBlock, into: Sequence[Tensor]) -> None:
    first, count = block.pieces[0], len(block.pieces)
    if block.adjacent:
        if first.dim != first.physical:
            columns = into[first.source][:, first.start : first.start + count * first.physical]
            columns.unflatten(1, (count, first.physical))[..., first.dim :].zero_()
        return
    for p in block.pieces:
        if p.dim != p.physical:
            into[p.source][:, p.start + p.dim : p.start + p.physical].zero_()
