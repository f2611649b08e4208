"""Arrays of columns, as kernels take them; the struct is that of `columns.h`."""

import ctypes

import torch
from torch import Tensor


class Columns(ctypes.Structure):
    """Columns are an array [n, C], fp32 or bf16, contiguous; live: [n] bool, which rows count in moments."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("live", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bf16", ctypes.c_int32),
    )

    @classmethod
    def of(cls, values: Tensor, live: Tensor | None = None) -> "Columns":
        """Returns those of a tensor, which has to live as long."""
        mask = None if live is None else live.data_ptr()
        return cls(values.data_ptr(), mask, *values.shape, values.dtype == torch.bfloat16)
