"""The kernel of a GRU's cells takes tensors; its struct is that of `recurrent.h`."""

import ctypes

from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _Cells(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("gates", "candidates", "of_states", "attention")),
        ("hidden", ctypes.c_int64),
        ("has_update", ctypes.c_int32),
    )


class CellKernel:
    """The kernel computes steps in arrays over all positions, fp32 and contiguous, that stay where they are.

    gates: [T, H or 2 H], candidates, of_states: [T, H], attention: [T] or None.
    """

    def __init__(self, gates: Tensor, candidates: Tensor, of_states: Tensor, attention: Tensor | None) -> None:
        attention = None if attention is None else attention.contiguous()
        self._memory = gates, candidates, of_states, attention  # so that it lives
        hidden = candidates.shape[1]
        places = (None if x is None else x.data_ptr() for x in self._memory)
        self._cells = _Cells(*places, hidden, gates.shape[1] > hidden)

    def forward(self, positions: slice, before: Tensor, after: Tensor) -> None:
        """Computes the states [n, H] after a step, and what backward needs of its gates and candidates."""
        library().cells_forward(
            *(ctypes.byref(self._cells), positions.start, len(before), before.data_ptr(), after.data_ptr()),
            kernel_threads(),
        )

    def backward(
        self,
        positions: slice,
        before: Tensor,
        gradient: Tensor,
        later: Tensor,
        of_states: Tensor,
        of_candidates: Tensor,
        of_attention: Tensor | None,
    ) -> None:
        """Computes a step's gradients, as `recurrent.cpp` says; of contiguous rows each."""
        found = (before, gradient, later, of_states, of_candidates)
        library().cells_backward(
            *(ctypes.byref(self._cells), positions.start, len(before), *(x.data_ptr() for x in found)),
            *(None if of_attention is None else of_attention.data_ptr(), kernel_threads()),
        )
