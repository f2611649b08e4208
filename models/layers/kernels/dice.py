"""The kernel of Dice takes tensors; its structs are those of `dice.h`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
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
        library().column_sums(ctypes.byref(self._columns), centre.data_ptr(), found.data_ptr(), kernel_threads())
        return found

    def forward(self, mean: Tensor, scale: Tensor, alpha: Tensor) -> Tensor:
        """Returns (p + (1 - p) alpha) s, p = sigma((s - mean) scale)."""
        result = torch.empty_like(self._s)
        library().dice(*self._of(mean, scale, alpha), result.data_ptr(), kernel_threads())
        return result

    def backward(
        self, gradient: Tensor, mean: Tensor, scale: Tensor, alpha: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Returns the gradients of s for given moments, of mean and scale, and of alpha, by the result's [n, C]."""
        gradient, found = gradient.to(self._s.dtype).contiguous(), torch.empty(3, len(mean))
        of_s = torch.empty_like(self._s)
        library().dice_sums(
            *(*self._of(mean, scale, alpha), gradient.data_ptr(), of_s.data_ptr(), found.data_ptr()),
            kernel_threads(),
        )
        *of_moments, of_alpha = gradients_of_columns(found, scale, alpha)
        return of_s, (of_moments[0], of_moments[1]), of_alpha

    def add_by_moments(self, of_s: Tensor, level: Tensor, slope: Tensor) -> None:
        """Adds to a gradient of s, at live rows, level + slope s: what it has by way of the moments."""
        places = (x.data_ptr() for x in (level, slope, of_s))
        library().dice_moments(ctypes.byref(self._columns), *places, kernel_threads())

    def _of(self, *columns: Tensor) -> tuple[Any, Any]:
        return ctypes.byref(self._columns), ctypes.byref(_DiceOf(*(x.data_ptr() for x in columns)))


def gradients_of_columns(sums: Tensor, scale: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of mean, scale and alpha by a kernel's sums [3, C], of which two are up to 1 - alpha."""
    of_alpha, of_exponent, weighted = sums
    rest = 1 - alpha
    return -of_exponent * rest * scale, weighted * rest / scale, of_alpha
