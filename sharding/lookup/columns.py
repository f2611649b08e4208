"""Columns of the collections' wide outputs [B, all columns] become the tower's inputs in one pass, gradients likewise.

Slicing and stacking with autograd would zero-fill and add a whole [B, all columns] buffer for every input; here
backward writes every column once. Features that lie side by side in one collection come out as a view, uncopied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


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

    @cached_property
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

    @cached_property
    def picks(self) -> bool:
        """Says whether the pieces are some of the vectors that one source is made of, all as wide as each other."""
        first = self.pieces[0]
        return all(
            (p.source, p.dim, p.physical) == (first.source, first.dim, first.dim) and p.start % first.dim == 0
            for p in self.pieces
        )


class ColumnLayout:
    """A layout says how blocks are made of sources of these widths, on a device."""

    def __init__(self, blocks: Sequence[ColumnBlock], widths: Sequence[int], device: torch.device) -> None:
        self.blocks, self.widths = tuple(blocks), tuple(widths)
        pieces = [p for b in blocks for p in b.pieces]
        self.once = len(set(pieces)) == len(pieces) and sum(p.physical for p in pieces) == sum(widths)
        """Whether every column is in one piece."""
        self._picked = [self._picks(block, device) for block in self.blocks]

    def _picks(self, block: ColumnBlock, device: torch.device) -> tuple[Tensor, Tensor | None] | None:
        first = block.pieces[0]
        width = self.widths[first.source]
        if block.adjacent or not block.picks or width % first.dim:
            return None
        order = torch.tensor([p.start // p.dim for p in block.pieces], device=device)
        return order, order.argsort() if self.once and len(order) * first.dim == width else None

    def picked(self, place: int, source: Tensor) -> Tensor | None:
        """Returns a block that picks vectors of its source; None: it has to be copied piece by piece."""
        if (picks := self._picked[place]) is None or not source.is_contiguous():
            return None
        block = self.blocks[place]
        vectors = source.view(len(source), -1, block.pieces[0].dim).index_select(1, picks[0])
        return vectors.flatten(1) if block.concat else vectors

    def put_back(self, place: int, gradient: Tensor, into: list[Tensor]) -> bool:
        """Puts the gradient of a block that picks vectors in its source's place, if it can; says whether it did."""
        if (picks := self._picked[place]) is None:
            return False
        first, (order, inverse) = self.blocks[place].pieces[0], picks
        vectors = gradient.reshape(len(gradient), len(order), first.dim)
        if inverse is not None:
            into[first.source] = vectors.float().index_select(1, inverse).flatten(1)
        else:
            whole = into[first.source]
            whole.view(len(whole), -1, first.dim).index_copy_(1, order, vectors.float())
        return True


def assemble_columns(layout: ColumnLayout, sources: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns one tensor per block from sources [B, columns] of fp32."""
    return _Assemble.apply(layout, *sources)


def stack_vectors(vectors: Sequence[Tensor]) -> Tensor:
    """Returns vectors [T, D] of F features side by side, [T, F, D]. Each one's gradient is in memory of its own.

    Slices of one that all share would be looked at, and summed by row, at a fraction of the speed.
    """
    return vectors[0].unsqueeze(1) if len(vectors) == 1 else _Stack.apply(*vectors)


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
    def forward(ctx: Any, layout: ColumnLayout, *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.layout, ctx.shapes = layout, [s.shape for s in sources]
        outputs = []
        for place, block in enumerate(layout.blocks):
            source = sources[block.pieces[0].source]
            if block.adjacent:
                outputs.append(_view(block, source))
            else:
                picked = layout.picked(place, source)
                outputs.append(_copy(block, sources) if picked is None else picked)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layout: ColumnLayout = ctx.layout
        blocks, once = layout.blocks, layout.once
        make = torch.empty if once else torch.zeros
        like = gradients[0]
        whole = _whole(blocks[0], gradients[0], ctx.shapes[0]) if once and len(blocks) == len(ctx.shapes) == 1 else None
        if whole is not None:
            _clear_padding(blocks[0], [whole])
            return None, whole
        into = [make(shape, dtype=torch.float32, device=like.device) for shape in ctx.shapes]
        for place, (block, gradient) in enumerate(zip(blocks, gradients, strict=True)):
            if once and block.adjacent:
                _put_adjacent(block, gradient, into[block.pieces[0].source])
            elif not (once and layout.put_back(place, gradient, into)):
                dims = [p.dim for p in block.pieces]
                for piece, columns in zip(block.pieces, gradient.flatten(1).split(dims, dim=1), strict=True):
                    target = into[piece.source][:, piece.start : piece.start + piece.dim]
                    target.copy_(columns) if once else target.add_(columns)
                if once:
                    _clear_padding(block, into)
        return (None, *into)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *vectors: Tensor) -> Tensor:
        return torch.stack(vectors, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient.transpose(0, 1).contiguous().unbind(0)


def _whole(block: ColumnBlock, gradient: Tensor, shape: torch.Size) -> Tensor | None:
    """Returns the source's gradient where a block's is laid out in its columns already, padding not filled in."""
    if not block.adjacent or gradient.dtype != torch.float32:
        return None
    if gradient.stride() != _view(block, torch.empty(shape, device="meta")).stride():
        return None
    numbers = gradient.untyped_storage().nbytes() // gradient.element_size() - gradient.storage_offset()
    return gradient.as_strided(shape, (shape[1], 1)) if numbers >= shape.numel() else None


def _put_adjacent(block: ColumnBlock, gradient: Tensor, source: Tensor) -> None:
    """Puts an adjacent block's gradient in its columns of a source's, and zeros in their padding."""
    first, count = block.pieces[0], len(block.pieces)
    if first.dim == first.physical:
        _view(block, source).copy_(gradient)
        return
    columns = source[:, first.start : first.start + count * first.physical].unflatten(1, (count, first.physical))
    columns.copy_(F.pad(gradient, (0, first.physical - first.dim)))  # whole rows: parts of each take twice as long


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
