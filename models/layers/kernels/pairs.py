"""The kernel of positions beside a vector of their row takes tensors; its struct is that of `pairs.h`."""

import ctypes

import torch
from torch import Tensor

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.library import library


class _Pairs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "vectors", "row", "offsets")),
        *((name, ctypes.c_int64) for name in ("columns", "first", "last")),
    )


class PairKernel:
    """The kernel has values [T, D] of positions and vectors [B, D] of rows, fp32; row: [T], offsets: [B + 1]."""

    def __init__(self, values: Tensor, vectors: Tensor, row: Tensor, offsets: Tensor) -> None:
        self._memory = values.contiguous(), vectors.contiguous(), row.contiguous(), offsets.to(row.dtype).contiguous()
        self._places = [x.data_ptr() for x in self._memory]
        self._columns = values.shape[1]

    def inputs(self, piece: slice, dtype: torch.dtype) -> Tensor:
        """Returns [k; k * q] of the positions of a piece, [n, 2 D], in fp32 or bf16."""
        found = torch.empty(piece.stop - piece.start, 2 * self._columns, dtype=dtype)
        pairs, bf16 = self._of(piece), dtype == torch.bfloat16
        library().pair_inputs(ctypes.byref(pairs), found.data_ptr(), bf16, kernel_threads())
        return found

    def gradients(self, piece: slice, of_inputs: Tensor, of_values: Tensor, of_vectors: Tensor) -> None:
        """Fills a piece of of_values [T, D], and adds to of_vectors [B, D], by a gradient of the piece's `inputs`."""
        pairs, of_inputs, bf16 = self._of(piece), of_inputs.contiguous(), of_inputs.dtype == torch.bfloat16
        library().pair_gradients(
            *(ctypes.byref(pairs), of_inputs.data_ptr(), bf16, of_values.data_ptr(), of_vectors.data_ptr()),
            kernel_threads(),
        )

    def _of(self, piece: slice) -> _Pairs:
        return _Pairs(*self._places, self._columns, piece.start, piece.stop)
