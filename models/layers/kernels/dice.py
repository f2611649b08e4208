"""The kernel of Dice takes tensors; its structs are those of `dice.h`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from shardrec.models.layers.kernels.columns import Columns
from shardrec.models.layers.kernels.library import library


class _DiceOf(ctypes.Structure):
    _fields_ = (("mean", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("alpha", ctypes.c_void_p))


class DiceKernel:
    """The kernel of Dice has an array s [n, C] in fp32 or bf16; live: [n] bool, which rows count in moments, None: all.

    Numbers of columns are [C] fp32. Sums are the same for any number of threads.
    """

    def __init__(self, s: Tensor, live: Tensor | None) -> None:
        self._s, self._live = s.contiguous(), None if live is None else live.contiguous()
        self._columns = Columns.of(self._s, self._live)

    def sums(self, centre: Tensor) -> Tensor:
        """Returns [2 C]: the sums over live rows of s - centre and of its square."""
        found = torch.empty(2 * len(centre))
        library().column_sums(ctypes.byref(self._columns), centre.data_ptr(), found.data_ptr(), torch.get_num_threads())
        return found

    def forward(self, mean: Tensor, scale: Tensor, alpha: Tensor) -> Tensor:
        """Returns (p + (1 - p) alpha) s, p = sigma((s - mean) scale)."""
        result = torch.empty_like(self._s)
        library().dice(*self._of(mean, scale, alpha), result.data_ptr(), torch.get_num_threads())
        return result

    def backward_sums(self, gradient: Tensor, mean: Tensor, scale: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of mean, scale and alpha by a gradient [n, C] of the result."""
        gradient, found = gradient.to(self._s.dtype).contiguous(), torch.empty(3, len(mean))
        library().dice_sums(
            *self._of(mean, scale, alpha), gradient.data_ptr(), found.data_ptr(), torch.get_num_threads()
        )
        of_alpha, of_exponent, weighted = found
        return -of_exponent * (1 - alpha) * scale, weighted * (1 - alpha) / scale, of_alpha

    def backward(
        self, gradient: Tensor, mean: Tensor, scale: Tensor, alpha: Tensor, level: Tensor, slope: Tensor
    ) -> Tensor:
        """Returns the gradient of s: that for given moments, and at live rows level + slope s by way of them."""
        gradient, result = gradient.to(self._s.dtype).contiguous(), torch.empty_like(self._s)
        library().dice_gradient(
            *(*self._of(mean, scale, alpha), gradient.data_ptr(), level.data_ptr(), slope.data_ptr()),
            *(result.data_ptr(), torch.get_num_threads()),
        )
        return result

    def _of(self, *columns: Tensor) -> tuple[Any, Any]:
        return ctypes.byref(self._columns), ctypes.byref(_DiceOf(*(x.data_ptr() for x in columns)))
