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
    """The kernel has query, key and value side by side, [M, 3 E], fp32 or bf16; offsets: [B + 1] of rows' positions."""

    def __init__(self, three: Tensor, offsets: Tensor, heads: int, *, causal: bool) -> None:
        self._three, self._offsets, self._heads = three.contiguous(), offsets.contiguous(), heads
        self._columns = three.shape[1] // 3
        scale, bf16 = (self._columns // heads) ** -0.5, three.dtype == torch.bfloat16
        rows = len(offsets) - 1, self._columns, heads, scale, causal, bf16
        self._rows = _Rows(*_places(self._three), self._offsets.data_ptr(), *rows)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns softmax(Q K^T / sqrt(d)) V of each row and head, [M, E], and what `backward` takes beside it."""
        attended = self._three.new_empty(len(self._three), self._columns)
        sums = torch.empty(len(attended), self._heads)
        library().rows_forward(ctypes.byref(self._rows), attended.data_ptr(), sums.data_ptr(), kernel_threads())
        return attended, sums

    def backward(self, attended: Tensor, sums: Tensor, gradient: Tensor) -> Tensor:
        """Returns the gradients of query, key and value, [M, 3 E], by that of `attended`."""
        gradient = gradient.to(attended.dtype).contiguous()
        of_three = torch.empty_like(self._three)
        library().rows_backward(
            *(ctypes.byref(self._rows), attended.data_ptr(), sums.data_ptr(), gradient.data_ptr()),
            *(*_places(of_three), kernel_threads()),
        )
        return of_three


def _places(three: Tensor) -> tuple[int, int, int]:
    """Returns where each of three arrays begins that lie side by side."""
    first, bytes_apart = three.data_ptr(), three.shape[1] // 3 * three.element_size()
    return first, first + bytes_apart, first + 2 * bytes_apart
