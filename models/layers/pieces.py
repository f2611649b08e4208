"""Parts of a long array that fit a CPU's cache, for formulas whose intermediate arrays need never be whole."""

import torch
from torch import Tensor

PIECE_BYTES = 1 << 19  # a thread's, of one of the arrays that a piece touches; half of a core's second-level cache


def pieces(values: Tensor, columns: int | None = None) -> list[slice]:
    """Parts of the rows of `values` [n, C]: all at once but on a CPU. columns: of the widest array, where C is not."""
    rows = len(values)
    if values.device.type != "cpu":
        return [slice(0, rows)] if rows else []
    size = PIECE_BYTES * torch.get_num_threads()
    step = max(1, size // max(1, (columns or values.shape[1]) * values.element_size()))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
