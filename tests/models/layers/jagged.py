"""Jagged sequences that the tests of several layers share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardrec.models.inputs import Jagged


class Rows(NamedTuple):
    """Rows of these lengths: [B], [T] the row of each position, [B + 1]."""

    lengths: Tensor
    row: Tensor
    offsets: Tensor

    @property
    def positions(self) -> int:
        return len(self.row)

    def split(self, values: Tensor) -> list[Tensor]:
        """Each row's part of [T, ...]."""
        return list(values.split(self.lengths.tolist()))


def rows(lengths: Sequence[int] = (3, 0, 5, 1, 5, 0, 2)) -> Rows:
    length = torch.tensor(lengths, dtype=torch.int64)
    offsets = torch.nn.functional.pad(length.cumsum(0), (1, 0))
    return Rows(length, Jagged(torch.empty(sum(lengths)), length, offsets).row_of_position(), offsets)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers that ask for a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
