"""The kernel of attention over pairs of fields takes tensors; its struct is that of `attention.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library

_LANES = 16  # rows at a time


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("factors", "weight", "bias", "score")),
        *((name, ctypes.c_int64) for name in ("rows", "fields", "columns", "units", "row_stride", "field_stride")),
    )


class AttentionKernel:
    """The kernel has factors [B, F, D], hidden weight [A, D] and bias [A], and the units' score [1, A], all fp32."""

    def __init__(self, factors: Tensor, weight: Tensor, bias: Tensor, score: Tensor) -> None:
        factors = factors if factors.stride(2) == 1 else factors.contiguous()
        self._memory = factors, weight.contiguous(), bias.contiguous(), score.contiguous()
        self._shape = *factors.shape, len(weight)
        self._attention = _Attention(*(x.data_ptr() for x in self._memory), *self._shape, *factors.stride()[:2])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns the pooled pairs [B, D], and the pairs' weights as `backward` takes them."""
        rows, fields, columns, _ = self._shape
        pooled = torch.empty(rows, columns)
        weights = torch.empty(-(-rows // _LANES), fields * (fields - 1) // 2, _LANES)
        library().attention_forward(
            ctypes.byref(self._attention), pooled.data_ptr(), weights.data_ptr(), kernel_threads()
        )
        return pooled, weights

    def backward(self, pooled: Tensor, weights: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the gradients of factors, weight, bias and score by that of what `forward` returned, [B, D]."""
        rows, fields, columns, units = self._shape
        gradient, of_factors = gradient.contiguous(), torch.empty(rows, fields, columns)
        of_parameters = torch.empty(units * (columns + 2))
        library().attention_backward(
            *(ctypes.byref(self._attention), pooled.data_ptr(), weights.data_ptr(), gradient.data_ptr()),
            *(of_factors.data_ptr(), of_parameters.data_ptr(), kernel_threads()),
        )
        of_weight, of_bias, of_score = of_parameters.split([units * columns, units, units])
        return of_factors, of_weight.view(units, columns), of_bias, of_score.unsqueeze(0)
