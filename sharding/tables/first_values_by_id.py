"""An id's first values are a pure function of (seed, table, id, column), whichever row of a dynamic table it gets.

Draws are counter-based, so that an id that comes back, after a resumption or on another plan, starts as it did before.
What is drawn is computed in fp64 and rounded once: devices and vector units, whose logarithms differ in the last place,
then agree but for one value in some 2^28.
"""

import hashlib
import math

import torch
from torch import Tensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.kernels.fresh import drawn_uniformly
from shardrec.sharding.kernels.library import library
from shardrec.sharding.tables.draws import mixed, signed

_STEP = signed(0x9E3779B97F4A7C15)  # between the counters of columns: 2^64 / the golden ratio, odd
_WEIGHTS = 1 << 18  # drawn at once on CPU, so that what is computed of them stays near its cache


@torch.no_grad()
def draw_rows(table: EmbeddingTable, seed: int, ids: Tensor) -> Tensor:
    """Draws the first values of `ids` [n] int64 by `table.init`: [n, embedding_dim] fp32 on their device."""
    digest = hashlib.blake2b(f"fresh row {seed} {table.name}".encode(), digest_size=8).digest()
    key = signed(int.from_bytes(digest, "little"))
    if table.init.kind == "uniform" and ids.device.type == "cpu" and library() is not None:
        return drawn_uniformly(ids, key, table.embedding_dim, table.zero_columns, table.init.scale)
    return draw_by_torch(table, key, ids)


def draw_by_torch(table: EmbeddingTable, key: int, ids: Tensor) -> Tensor:
    """Does what `draw_rows` says, by a table's key of 64 bits."""
    rows = ids.new_empty((len(ids), table.embedding_dim), dtype=torch.float32)
    step = max(1, _WEIGHTS // table.embedding_dim) if ids.device.type == "cpu" else max(1, len(ids))
    draw = _normal if table.init.kind == "normal" else _uniform
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        rows[part] = draw(_words(ids[part] + key, table.embedding_dim))[:, : table.embedding_dim] * table.init.scale
    rows[:, : table.zero_columns] = 0
    return rows


def _words(counters: Tensor, columns: int) -> Tensor:
    """[n] int64, overwritten -> [n, 2 * words] int32: 32 random bits for each column (little-endian, as hosts are)."""
    words = torch.arange(1, columns // 2 + columns % 2 + 1, device=counters.device).mul_(_STEP)
    return mixed(mixed(counters).unsqueeze(1) + words).view(torch.int32)


def _uniform(bits: Tensor) -> Tensor:
    """[n, columns] int32 -> fp64 in (-1, 1), symmetric and exact in fp32: odd multiples of 2^-24."""
    return ((bits >> 8).double() + 0.5).mul_(2.0**-23)


def _normal(bits: Tensor) -> Tensor:
    """[n, columns] int32 -> fp64, standard normal: Box and Muller's transform of pairs of columns."""
    whole = (bits.double() + (2.0**31 + 0.5)).mul_(2.0**-32)  # in (0, 1)
    radius = whole[:, 0::2].log().mul_(-2).sqrt_()
    angle = whole[:, 1::2] * (2 * math.pi)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 2).view(bits.shape)
