"""The kernel of attention within rows takes tensors; its struct is that of `row_attention.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "offsets")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "heads")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int32),
        ("bf16", ctypes.c_int32),
    )


class RowAttentionKernel:
    """The kernel has query, key and value [M, E] of positions, all fp32 or all bf16; offsets: [B + 1] -> [M]."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, heads: int, *, causal: bool) -> None:
        self._memory = tuple(x.contiguous() for x in (query, key, value, offsets))
        self._query, columns = self._memory[0], query.shape[1]
        self._heads = heads
        places = (x.data_ptr() for x in self._memory)
        scale, bf16 = (columns // heads) ** -0.5, query.dtype == torch.bfloat16
        self._rows = _Rows(*places, len(offsets) - 1, columns, heads, scale, causal, bf16)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns softmax(Q K^T / sqrt(d)) V of each row and head, [M, E], and what `backward` takes beside it."""
        attended = torch.empty_like(self._query)
        sums = torch.empty(len(attended), self._heads)
        library().rows_forward(ctypes.byref(self._rows), attended.data_ptr(), sums.data_ptr(), kernel_threads())
        return attended, sums

    def backward(self, attended: Tensor, sums: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of query, key and value by that of `attended`."""
        gradient = gradient.to(attended.dtype).contiguous()
        of_query, of_key, of_value = (torch.empty_like(self._query) for _ in range(3))
        library().rows_backward(
            *(ctypes.byref(self._rows), attended.data_ptr(), sums.data_ptr(), gradient.data_ptr()),
            *(of_query.data_ptr(), of_key.data_ptr(), of_value.data_ptr(), kernel_threads()),
        )
        return of_query, of_key, of_value
