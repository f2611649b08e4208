"""fp16 rows are rounded stochastically, up or down by how near each is, so that small changes count in the mean.

Rounding to nearest drops every change of less than half a unit in the last place; a row that many small gradients move
stands still. Draws are counter-based on (seed, table, step, row, column): they depend on no plan and no rank, and a
resumed run goes on with them.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from shardrec.sharding.tables.draws import mixed, signed

DRAW_BITS = 13  # what fp32 has more than fp16: sums below are then exact, and so are the chances
_COLUMNS = 4  # of one 64-bit draw


@dataclass(frozen=True)
class ShardRounding:
    """A shard's rounding differs from step to step. row, column: where in its table the shard starts."""

    seed: int
    table: str
    row: int = 0
    column: int = 0

    def at_step(self, step: int) -> "StochasticRounding":
        """Returns the rounding of one step."""
        return StochasticRounding(rounding_key(self.seed, self.table, step), self.row, self.column)


@dataclass(frozen=True)
class StochasticRounding:
    """Rows are rounded to fp16 by the draws of one step. key: from `rounding_key`; row, column: as `ShardRounding`."""

    key: int
    row: int = 0
    column: int = 0

    def round(self, values: Tensor, rows: Tensor) -> Tensor:
        """Rounds [n, columns] fp32 to fp16: to the neighbour below or above, in the mean to the value itself.

        rows: [n] int64, their numbers in the shard. What fp16 cannot hold becomes infinite, as by rounding to nearest.
        """
        exponent = (values.view(torch.int32) & 0x7F800000).view(torch.float32)
        unit = exponent.mul_(2.0**-10).clamp_(min=2.0**-24)  # between neighbours in fp16, subnormal ones too
        draws = self._draws(rows, values.shape[1]).mul_(2.0**-DRAW_BITS)
        return draws.addcdiv_(values, unit).floor_().mul_(unit).half()

    def _draws(self, rows: Tensor, columns: int) -> Tensor:
        """Returns [n, columns] fp32, whole numbers in [0, 2 ** DRAW_BITS)."""
        first, skipped = divmod(self.column, _COLUMNS)
        words = -(-(skipped + columns) // _COLUMNS)
        counter = torch.arange(first, first + words, device=rows.device) + ((rows + self.row) << 20).unsqueeze(1)
        bits = mixed(counter.mul_(signed(0x9E3779B97F4A7C15)).add_(signed(self.key)))
        drawn = bits.view(torch.int16)[:, skipped : skipped + columns]
        return (drawn & ((1 << DRAW_BITS) - 1)).float()


def rounding_key(seed: int, table: str, step: int) -> int:
    """Returns 64 bits of (seed, table, step)."""
    digest = hashlib.blake2b(f"rounding {seed} {table} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
