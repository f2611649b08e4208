"""Pieces are parts of a long array that fit a CPU's cache, so that what lies between need never be whole.

A program that is being exported serves batches of any size, so there is one piece, the whole.
"""

import torch
from torch import Tensor

PIECE_BYTES = 1 << 19  # a thread's, of one of the arrays that a piece touches; half of a core's second-level cache


def pieces(values: Tensor, columns: int | None = None) -> list[slice]:
    """Returns parts of the rows of `values` [n, C], all at once but on a CPU; none where n is 0.

    columns: of the widest array that a formula makes of a row, where that is not C.
    """
    row_count = len(values)
    if values.device.type != "cpu" or torch.compiler.is_exporting():
        return [slice(0, row_count)] if row_count else []
    size = PIECE_BYTES * torch.get_num_threads()
    step = max(1, size // max(1, (columns or values.shape[1]) * values.element_size()))
    return [slice(start, min(start + step, row_count)) for start in range(0, row_count, step)]


def row_blocks(values: Tensor, columns: int, numbers_at_once: int) -> tuple[Tensor, ...]:
    """Splits `values` [B, ...] by rows, where autograd remembers each block; it stays whole but on a CPU.

    columns: numbers that a formula makes of a row; numbers_at_once: so many of them are made for one block.
    """
    if torch.compiler.is_exporting():
        return (values,)
    row_count = max(1, len(values))
    if values.device.type == "cpu":
        row_count = max(1, numbers_at_once // max(1, columns))
    return values.split(row_count)
