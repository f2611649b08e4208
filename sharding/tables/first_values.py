"""A row's first values are a pure function of (seed, table, row, column), whatever the plan.

Rows are drawn in blocks of 65,536 as whole fp32 blocks [65,536, embedding_dim] (fewer rows a block where that would
pass 32 MiB) by NumPy's SFC64, whose streams are pinned by a test; a block's generator is keyed by (seed, table name,
block). A shard slices, casts and copies what it holds, so that any two plans start from bit-equal tables, at the
price that a column-wise shard draws the columns of the others too. Blocks are drawn in several threads; no copy of a
table is made.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.tables.live import LiveTable, TableShard, starts_at_zero

BLOCK_ROWS = 65_536
BLOCK_BYTES = 32 << 20


def block_rows(embedding_dim: int) -> int:
    """Returns how many rows are drawn at once: 65,536, halved until they fit 32 MiB."""
    rows = BLOCK_ROWS
    while rows > 1 and rows * embedding_dim * 4 > BLOCK_BYTES:
        rows //= 2
    return rows


def draw_block(table: EmbeddingTable, seed: int, block: int) -> np.ndarray:
    """Draws the rows [block n, (block + 1) n) with n = `block_rows`: [n, embedding_dim] float32."""
    name = hashlib.blake2b(table.name.encode(), digest_size=16).digest()
    key = [seed, *np.frombuffer(name, dtype=np.uint32).tolist(), block]
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    shape = (block_rows(table.embedding_dim), table.embedding_dim)
    scale = np.float32(table.init.scale)
    if table.init.kind == "normal":
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= scale
    else:
        values = generator.random(shape, dtype=np.float32)
        values *= 2 * scale
        values -= scale
    values[:, : table.zero_columns] = 0
    return values


@torch.no_grad()
def initialize_tables(tables: Iterable[LiveTable], seed: int) -> None:
    """Fills this rank's shards with the first values of `seed`: weights as declared, padding and state 0.

    What state goes with weights that are not 0 is the optimizer's to say (`updates/choose.py: start_tables`).
    """
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        waiting = []
        for table in tables:
            rows = block_rows(table.table.embedding_dim)
            for shard in table.shards:
                for name, tensor in shard.tensors.items():
                    if name != "weight" or starts_at_zero(table.table):
                        tensor.zero_()
                if starts_at_zero(table.table):
                    continue
                first, last = shard.row // rows, (shard.row + len(shard.weight) - 1) // rows
                waiting += [threads.submit(_fill, table, shard, seed, b) for b in range(first, last + 1)]
        for job in waiting:
            job.result()


def _fill(table: LiveTable, shard: TableShard, seed: int, block: int) -> None:
    with torch.no_grad():  # grad mode belongs to a thread
        values = torch.from_numpy(draw_block(table.table, seed, block))
        start = block * len(values)
        low, high = max(start, shard.row), min(start + len(values), shard.row + len(shard.weight))
        target = shard.weight[low - shard.row : high - shard.row]
        columns = values[low - start : high - start, shard.column : shard.column + target.shape[1]]
        target[:, : columns.shape[1]].copy_(columns)
        target[:, columns.shape[1] :].zero_()
