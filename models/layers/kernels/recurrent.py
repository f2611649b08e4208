"""The kernel of a GRU over packed sequences takes tensors; its structs are those of `recurrent.h`."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library

_LANES = 16

# The order of a cell's blocks in the kernel, by their number; each is its own inverse.
_OF_INPUTS = {2: [0, 1], 3: [0, 2, 1]}
_OF_STATES = {2: [1, 0], 3: [1, 0, 2]}


class _Recurrence(ctypes.Structure):
    _fields_ = (
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("steps", "inputs", "hidden")),
        *((name, ctypes.c_void_p) for name in ("weight", "recurrent", "weight_turned", "recurrent_turned", "bias")),
        *((name, ctypes.c_void_p) for name in ("of_inputs", "attention")),
        *((name, ctypes.c_int32) for name in ("has_update", "by_bf16")),
        *((name, ctypes.c_void_p) for name in ("states", "kept")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("of_inputs", "of_attention", "of_weight", "of_recurrent", "of_bias")
    )


class Cell(NamedTuple):
    """A cell's parameters: weight [blocks H, I], bias [blocks H], recurrent [blocks H, H]; blocks r, h~ and maybe u."""

    weight: Tensor
    bias: Tensor
    recurrent: Tensor


class RecurrenceGradients(NamedTuple):
    """Gradients of a recurrence: of inputs [T, I], of the cell's parameters and, where there is any, attention [T]."""

    inputs: Tensor
    cell: Cell
    attention: Tensor | None


class RecurrenceKernel:
    """The kernel computes the states of a GRU over packed sequences.

    counts: rows that have each step; inputs: [T, I]; attention: [T] or None, all fp32. by_bf16: products may round
    their factors to bf16. Sums are the same for any number of threads.
    """

    def __init__(
        self, counts: Sequence[int], inputs: Tensor, cell: Cell, attention: Tensor | None, *, by_bf16: bool = False
    ) -> None:
        self._inputs = inputs.contiguous()
        self._attention = None if attention is None else attention.contiguous()
        self._hidden = cell.recurrent.shape[1]
        self._blocks = len(cell.bias) // self._hidden
        bias = self._in_lanes(cell.bias.unsqueeze(1), _OF_INPUTS)[:, 0].contiguous()
        weight, recurrent = self._in_lanes(cell.weight, _OF_INPUTS), self._in_lanes(cell.recurrent, _OF_STATES)
        self._parameters = weight, recurrent, bias
        self._memory = (
            *(torch.tensor([0, *accumulate(counts)]), weight[:, : inputs.shape[1]].T.contiguous()),
            recurrent[:, : self._hidden].T.contiguous(),
        )
        start, *turned = _places(*self._memory)
        self._of = _Recurrence(
            *(start, len(counts), inputs.shape[1], self._hidden, *_places(weight, recurrent), *turned),
            *(*_places(bias, self._inputs, self._attention), self._blocks > 2, by_bf16),
        )

    def forward(self, *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """Returns the states [T, H] and, if asked to, the numbers of cells that `backward` needs."""
        states = torch.empty(len(self._inputs), self._hidden)
        kept = torch.empty(len(states), (1 + self._blocks) * self._hidden) if keep else None
        self._of.states, self._of.kept = _places(states, kept)
        library().recurrence_forward(ctypes.byref(self._of), kernel_threads())
        return states, kept

    def backward(self, states: Tensor, kept: Tensor, gradient: Tensor) -> RecurrenceGradients:
        """Returns the gradients by that of the states [T, H], from what `forward` returned."""
        gradient = gradient.contiguous()
        self._of.states, self._of.kept = _places(states, kept)
        of_inputs = torch.empty_like(self._inputs)
        of_attention = None if self._attention is None else torch.empty_like(self._attention)
        weight, recurrent, bias = found = [torch.empty_like(x) for x in self._parameters]
        filled = _Gradients(*_places(of_inputs, of_attention, *found))
        library().recurrence_backward(
            ctypes.byref(self._of), gradient.data_ptr(), ctypes.byref(filled), kernel_threads()
        )
        of_cell = Cell(
            self._from_lanes(weight, _OF_INPUTS)[:, : self._inputs.shape[1]],
            self._from_lanes(bias.unsqueeze(1), _OF_INPUTS)[:, 0],
            self._from_lanes(recurrent, _OF_STATES)[:, : self._hidden],
        )
        return RecurrenceGradients(of_inputs, of_cell, of_attention)

    def _in_lanes(self, parameter: Tensor, orders: dict[int, list[int]]) -> Tensor:
        """Puts blocks in the kernel's order, and pads each and its columns: [blocks H, C] -> [blocks H', C']."""
        blocks = parameter.unflatten(0, (self._blocks, self._hidden))[orders[self._blocks]]
        return F.pad(blocks, (0, -parameter.shape[1] % _LANES, 0, -self._hidden % _LANES)).flatten(0, 1)

    def _from_lanes(self, gradient: Tensor, orders: dict[int, list[int]]) -> Tensor:
        """Puts blocks back, and drops what pads them: [blocks H', C'] -> [blocks H, C']."""
        blocks = gradient.unflatten(0, (self._blocks, -1))[orders[self._blocks]]
        return blocks[:, : self._hidden].flatten(0, 1)


def _places(*tensors: Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]
