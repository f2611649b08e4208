"""The kernel of FMs takes tensors; its structs are those of `fm.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _Fields(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("field", "dense")),
        *((name, ctypes.c_int64) for name in ("rows", "fields", "columns", "dense_columns")),
        *((name, ctypes.c_int64) for name in ("row_stride", "field_stride", "dense_stride")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("first", "pairs", "beside"))


class FmKernel:
    """The kernel has fields [B, F, 1 + D], and dense columns [B, N] or None, fp32 and of any strides between rows."""

    def __init__(self, field: Tensor, dense: Tensor | None) -> None:
        self._field = field if field.stride(2) == 1 else field.contiguous()
        rows, self._fields, width = field.shape
        self._columns = width - 1
        if dense is None:
            self._dense, dense_columns, dense_stride = None, 0, 0
        else:
            self._dense = dense if dense.stride(1) == 1 else dense.contiguous()
            dense_columns, dense_stride = dense.shape[1], self._dense.stride(0)
        self._width = self._fields * self._columns + dense_columns
        self._struct = _Fields(
            *(self._field.data_ptr(), _at(self._dense), rows, self._fields, self._columns, dense_columns),
            *(self._field.stride(0), self._field.stride(1), dense_stride),
        )

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns sums over fields [B, 1 + D], pairs [B, D] and, with dense columns, [B, F D + N] in fp32 or bf16."""
        rows = self._field.shape[0]
        total, pairs = torch.empty(rows, 1 + self._columns), torch.empty(rows, self._columns)
        beside = None if self._dense is None else torch.empty(rows, self._width, dtype=dtype)
        library().fm_forward(
            *(ctypes.byref(self._struct), total.data_ptr(), pairs.data_ptr(), _at(beside)),
            *(dtype == torch.bfloat16, kernel_threads()),
        )
        return total, pairs, beside

    def backward(
        self, total: Tensor, first: Tensor | None, pairs: Tensor | None, beside: Tensor | None, of_field: Tensor
    ) -> None:
        """Fills of_field, of the fields' strides, by gradients of the sums' first column, of pairs and of columns."""
        assert of_field.stride() == self._field.stride()
        found = [None if x is None else x.contiguous() for x in (first, pairs, beside)]
        bf16 = beside is not None and beside.dtype == torch.bfloat16
        library().fm_backward(
            *(ctypes.byref(self._struct), total.data_ptr(), ctypes.byref(_Gradients(*map(_at, found)))),
            *(bf16, of_field.data_ptr(), kernel_threads()),
        )


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
