"""The kernel of a logit takes tensors; its struct is that of `columns.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.columns import Columns
from shardrec.models.layers.kernels.library import library


class LogitKernel:
    """The kernel has an array x [n, C] in fp32 or bf16, and a weight [C] fp32."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self._x, self._weight = x.contiguous(), weight.contiguous()
        self._columns = Columns.of(self._x)

    def forward(self, bias: Tensor | None = None) -> Tensor:
        """Returns x w + bias, [n, 1] fp32."""
        shift = 0.0 if bias is None else ctypes.c_float.from_address(bias.data_ptr()).value
        found, places = torch.empty(self._x.shape[0], 1), (ctypes.byref(self._columns), self._weight.data_ptr())
        library().logit_forward(*places, shift, found.data_ptr(), kernel_threads())
        return found

    def backward(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of x and w by that of the logits, [n, 1] fp32."""
        gradient, of_x, of_weight = gradient.contiguous(), torch.empty_like(self._x), torch.empty_like(self._weight)
        library().logit_backward(
            *(ctypes.byref(self._columns), self._weight.data_ptr(), gradient.data_ptr()),
            *(of_x.data_ptr(), of_weight.data_ptr(), kernel_threads()),
        )
        return of_x, of_weight
