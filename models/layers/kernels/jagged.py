"""The kernel of rows' positions takes tensors; its struct is that of `jagged.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _Positions(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "weights", "offsets")),
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        ("bf16", ctypes.c_int32),
    )


class JaggedKernel:
    """The kernel has values [T, D], fp32 or bf16, of positions; offsets: [B + 1]; weights: [T], None: 1 each."""

    def __init__(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
        self._values, self._offsets = values.contiguous(), offsets.long().contiguous()
        self._weights = None if weights is None else weights.float().contiguous()
        self._rows = len(offsets) - 1
        self._positions = _Positions(
            *(self._values.data_ptr(), None if self._weights is None else self._weights.data_ptr()),
            *(self._offsets.data_ptr(), self._rows, values.shape[1], values.dtype == torch.bfloat16),
        )

    def sums(self) -> Tensor:
        """Returns each row's sum of its positions' weighted values, [B, D]."""
        found = self._values.new_empty(self._rows, self._values.shape[1])
        library().jagged_sums(ctypes.byref(self._positions), found.data_ptr(), kernel_threads())
        return found

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of values, and of weights [T] fp32, by that of the sums."""
        assert self._weights is not None
        gradient, of_values = gradient.to(self._values.dtype).contiguous(), torch.empty_like(self._values)
        of_weights = torch.empty_like(self._weights)
        places = (x.data_ptr() for x in (gradient, of_values, of_weights))
        library().jagged_gradients(ctypes.byref(self._positions), *places, kernel_threads())
        return of_values, of_weights
