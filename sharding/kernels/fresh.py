"""The kernel of fresh rows draws what ids start with, and writes it to their rows; structs are those of `fresh.h`."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.sharding.kernels.library import library


class _Draw(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_uint64),
        ("columns", ctypes.c_int64),
        ("zero_columns", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class _Cleared(ctypes.Structure):
    _fields_ = (("memory", ctypes.c_void_p), ("bytes", ctypes.c_int64))


class _Fresh(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("stride", "columns")),
        ("weight", ctypes.c_void_p),
        ("stored", ctypes.c_int64),
        ("half", ctypes.c_int32),
        ("cleared", ctypes.POINTER(_Cleared)),
        ("count", ctypes.c_int64),
    )


def are_renewed_here(*tensors: Tensor) -> bool:
    """Says whether the kernel writes rows of these: contiguous fp32 and fp16 on a CPU."""
    dtypes = (torch.float32, torch.float16)
    return all(t.device.type == "cpu" and t.dtype in dtypes and t.is_contiguous() for t in tensors) and bool(library())


def drawn_uniformly(ids: Tensor, key: int, columns: int, zero_columns: int, scale: float) -> Tensor:
    """Returns the first values of ids [n] int64 on a CPU, [n, columns] fp32: `first_values_by_id.py` says which."""
    ids, values = ids.contiguous(), torch.empty(len(ids), columns)
    of = _Draw(key & (1 << 64) - 1, columns, zero_columns, scale)
    library().fresh_draw(ctypes.byref(of), ids.data_ptr(), len(ids), values.data_ptr(), kernel_threads())
    return values


def renew(rows: Tensor, cleared: Sequence[Tensor], weight: Tensor, values: Tensor | None) -> None:
    """Sets rows [n] of a shard to 0 in the tensors to be cleared, and in its weight to values. No row is named twice.

    values: [n, columns] fp32, that become the first columns; None: weights stay as they are. Raises IndexError for a
    row that the shard has not; nothing changes then.
    """
    rows = rows.contiguous()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(weight):
        raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} are to start anew in a shard of {len(weight)}")
    tensors = (_Cleared * len(cleared))(*(_Cleared(t.data_ptr(), t[:1].numel() * t.element_size()) for t in cleared))
    place, stride, columns = None, 0, 0
    if values is not None:
        values = values if values.stride(1) == 1 else values.contiguous()
        place, stride, columns = values.data_ptr(), values.stride(0), values.shape[1]
    fresh = _Fresh(
        *(rows.data_ptr(), len(rows), place, stride, columns, weight.data_ptr(), weight.shape[1]),
        *(weight.dtype == torch.float16, tensors, len(cleared)),
    )
    library().fresh_renew(ctypes.byref(fresh), kernel_threads())
