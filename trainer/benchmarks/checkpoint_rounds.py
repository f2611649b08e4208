"""One round writes and reads a table, beside plain writes and reads of the same bytes on the same disk.

The plain ones go in blocks of 32 MiB from and into the table's own memory, with one fsync (`dd bs=32M conv=fsync`).
What is read, either way, has left the page cache before. Memory is how far the process's largest resident set rises
(VmHWM), which the page cache is no part of; the table itself is there before.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.entries import CHUNK_BYTES, Entry
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.planning.placements import row_blocks
from shardrec.sharding.planning.plan import table_bytes
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.sharding.updates.choose import row_update

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_OPTIMIZER = TableOptimizer(name="rowwise_adagrad")


@dataclass(frozen=True)
class Measured:
    """A measurement is one worker's seconds and how far its memory rose, in bytes; None: the system does not tell."""

    seconds: float
    extra_bytes: int | None = None


@dataclass(frozen=True)
class Round:
    """A round has one worker's times for its part, each measured once."""

    plain_write: Measured
    write: Measured
    plain_read: Measured
    read: Measured


def made_table(size: int, dim: int, rank: int, world_size: int) -> LiveTable:
    """Makes this rank's rows of an fp32 table that takes some `size` bytes with its row-wise AdaGrad state.

    Weights and state are drawn: nothing on the way to the disk can shorten them. A table has a row a rank at least.
    """
    one = EmbeddingTable(name="table", num_embeddings=1, embedding_dim=dim, optimizer=_OPTIMIZER)
    block = max(1, size // world_size // table_bytes(one))
    table = EmbeddingTable(name="table", num_embeddings=block * world_size, embedding_dim=dim, optimizer=_OPTIMIZER)
    shard = row_blocks(table, world_size).shards[rank]
    shapes = {"weight": (shard.rows, shard.columns), **row_update(table).state_shapes(shard.rows, shard.columns)}
    generator = torch.Generator().manual_seed(rank)
    tensors = {name: torch.empty(shape).uniform_(generator=generator) for name, shape in shapes.items()}
    return LiveTable(table, (TableShard(shard.row, shard.column, tensors),))


def held_bytes(table: LiveTable) -> int:
    """Returns the bytes of a table's shards as a checkpoint holds them."""
    values = [table.logical(shard, name) for shard in table.shards for name in shard.tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in values)


def measure_round(
    folder: Path,
    table: LiveTable,
    rank: int,
    barrier: Callable[[], None],
    of_all_ranks: Callable[[list[Entry]], list[Entry]],
) -> Round:
    """Writes and reads this rank's part of a table once, in `folder`; its files are gone afterwards.

    There is never more than one copy on the disk. barrier: what ranks wait at, to start together; of_all_ranks: puts
    their manifest entries together, which each of them reads by.
    """
    plain, tables, size = folder / f"plain-{rank}", {table.name: table}, held_bytes(table)
    mine: list[Entry] = []
    plain_write = _measured(lambda: _write_plainly(plain, table, size), barrier)
    plain.unlink()
    write = _measured(lambda: mine.extend(write_tables(folder, tables)), barrier)
    entries, files = of_all_ranks(mine), [folder / entry["file"] for entry in mine]
    _leave_page_cache(files)
    plain_read = _measured(lambda: _read_plainly(files), barrier)
    _leave_page_cache(files)
    read = _measured(lambda: read_tables(folder, entries, tables), barrier)
    barrier()
    for path in files:
        path.unlink()
    return Round(plain_write, write, plain_read, read)


def _measured(work: Callable[[], object], barrier: Callable[[], None]) -> Measured:
    barrier()
    before = _forgotten_peak()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return Measured(seconds, None if before is None else max(0, _peak() - before))


def _forgotten_peak() -> int | None:
    """Makes the largest resident set the present one, and returns it in bytes."""
    try:
        _FORGET_PEAK.write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# ---------------------------------------------------------------- what the disk does


def _write_plainly(path: Path, table: LiveTable, size: int) -> None:
    with open(path, "xb", buffering=0) as file:
        for block in _blocks(table, size):
            while block:
                block = block[os.write(file.fileno(), block) :]
        os.fsync(file.fileno())


def _blocks(table: LiveTable, size: int) -> Iterator[memoryview]:
    """Yields the first `size` bytes of a table's memory; padded rows take more of it than a checkpoint holds."""
    for tensor in (tensor for shard in table.shards for tensor in shard.tensors.values()):
        data = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)[:size]
        size -= len(data)
        yield from (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _read_plainly(files: list[Path]) -> None:
    with mmap.mmap(-1, CHUNK_BYTES) as into:  # the heap would keep such a block, and the next reader find it there
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(into):
                    pass


def _leave_page_cache(files: list[Path]) -> None:
    """Has the system let go of files' pages, which are synced already; where it cannot be told, they stay."""
    for path in files:
        with open(path, "rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
