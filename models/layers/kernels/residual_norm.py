"""The kernel of a layer norm of a sum takes tensors; its struct is that of `residual_norm.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _ResidualNorm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("eps", ctypes.c_float),
    )


class ResidualNormKernel:
    """The kernel norms x + added over the columns of [n, C]; weight and bias: [C] fp32."""

    def __init__(self, rows: int, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._memory = weight.contiguous(), bias.contiguous()
        self._norm = _ResidualNorm(rows, len(weight), *(x.data_ptr() for x in self._memory), eps)

    def forward(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what is normed, [n, C] fp32, by x in fp32 and `added` in fp32 or bf16; and what `backward` takes."""
        x, added = x.contiguous(), added.contiguous()
        z, y, moments = torch.empty_like(x), torch.empty_like(x), torch.empty(len(x), 2)
        library().norm_forward(
            *(ctypes.byref(self._norm), x.data_ptr(), added.data_ptr(), added.dtype == torch.bfloat16),
            *(z.data_ptr(), moments.data_ptr(), y.data_ptr(), kernel_threads()),
        )
        return y, z, moments

    def backward(
        self, z: Tensor, moments: Tensor, gradient: Tensor, added: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the gradients of x, of what is added in its precision, of weight and of bias."""
        gradient, of_x = gradient.contiguous(), torch.empty_like(z)
        of_added = torch.empty_like(z, dtype=added) if added == torch.bfloat16 else None
        sums = torch.empty(2, z.shape[1])
        library().norm_backward(
            *(ctypes.byref(self._norm), z.data_ptr(), moments.data_ptr(), gradient.data_ptr(), of_x.data_ptr()),
            *(None if of_added is None else of_added.data_ptr(), sums.data_ptr(), kernel_threads()),
        )
        return of_x, of_x if of_added is None else of_added, sums[0], sums[1]
