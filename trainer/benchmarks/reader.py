"""`shardrec bench reader` measures how fast rows become batches, beside plain pyarrow."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet

PLAIN_ROWS = 65_536
"""The plain pyarrow loop reads record batches of so many rows."""


def benchmark_reader(
    paths: str | Path | Sequence[str | Path] | None = None,
    schema: Schema | None = None,
    *,
    folder: str | Path = ".",
    lanes: int | None = 16,
    window: int = 16_384,
    global_batch_size: int = 4096,
    memory: int = 1 << 30,
    readers: int = 0,
    rows: int = 2_000_000,
    repeats: int = 5,
) -> dict[str, Any]:
    """Returns rows/s of `Loader` (shuffled) and of `ParquetFile.iter_batches`, in turns.

    readers: processes that decode for the loader; without any all is one process on one core.
    paths, schema, folder: the data; without paths, `rows` rows of 26 ids, 13 numbers and a label are made up.
    The rates are medians of `repeats` passes; beside them are their ratio and what was read. Raises UserError for paths
    without a schema.
    """
    if paths is None:
        with tempfile.TemporaryDirectory() as made:
            write_click_log(Path(made), rows)
            return benchmark_reader(
                made,
                click_schema(),
                lanes=lanes,
                window=window,
                global_batch_size=global_batch_size,
                memory=memory,
                readers=readers,
                repeats=repeats,
            )
    if schema is None:
        raise UserError("bench reader: data paths need a schema; name a schema.yaml, or leave the paths out")
    loader = Loader(
        DataSet.open(paths),
        schema,
        folder=folder,
        global_batch_size=global_batch_size,
        lanes=lanes,
        window=window,
        memory=memory,
        readers=readers,
    )
    loader_rate, plain_rate = _rates(loader, repeats)
    return {
        "rows": loader.index.num_rows,
        "columns": len(loader.columns),
        "lanes": loader.lanes,
        "readers": readers,
        "window": window,
        "global_batch_size": global_batch_size,
        "repeats": repeats,
        "loader_rows_per_second": round(loader_rate),
        "iter_batches_rows_per_second": round(plain_rate),
        "ratio": round(loader_rate / plain_rate, 3),
        "decoded_per_row": round(loader.rows_decoded / loader.rows_read, 3),
    }


def _rates(loader: Loader, repeats: int) -> tuple[float, float]:
    """Returns the median rows/s of the loader and of plain pyarrow, measured in turns."""
    reads: tuple[Callable[[int], int], ...] = (
        lambda turn: sum(int(batch.size) for batch in loader.epoch(turn)),
        lambda turn: _plain(loader),
    )
    rates: tuple[list[float], ...] = ([], [])
    with nullcontext() if loader.readers else one_core():
        for turn in range(repeats + 1):
            for read, measured in zip(reads, rates, strict=True):
                begun = time.perf_counter()
                row_count = read(turn)
                if turn:  # the first is for warming up
                    measured.append(row_count / (time.perf_counter() - begun))
    return statistics.median(rates[0]), statistics.median(rates[1])


def _plain(loader: Loader) -> int:
    """Decodes all rows of a loader's columns and drops them; returns how many there are."""
    total, columns = 0, list(loader.columns)
    for file in loader.index.files:
        opened = pq.ParquetFile(file.filesystem.open_input_file(file.path))
        for batch in opened.iter_batches(PLAIN_ROWS, columns=columns, use_threads=False):
            total += batch.num_rows
    return total


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this thread, those that it starts, torch and pyarrow on a single core, where the system allows it."""
    threads, arrow_threads = torch.get_num_threads(), pa.cpu_count()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    if allowed:
        os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        pa.set_cpu_count(arrow_threads)
        if allowed:
            os.sched_setaffinity(0, allowed)


def click_schema() -> Schema:
    """Returns the schema of the 40 columns of `write_click_log`."""
    ids = [IdFeature(name=f"id_{i}", ids=Identity(num_ids=_cardinality(i))) for i in range(26)]
    return Schema(features=(*ids, *(DenseFeature(name=f"dense_{i}") for i in range(13))))


def write_click_log(folder: Path, rows: int, files: int = 4, group_rows: int = 65_536) -> None:
    """Writes Parquet files (zstd) of power-law ids, of 10 to a million each, log-normal numbers and a label."""
    rng = np.random.default_rng(0)
    for file in range(files):
        count = rows * (file + 1) // files - rows * file // files
        columns = {f"id_{i}": rng.zipf(1.2, count) % _cardinality(i) for i in range(26)}
        columns |= {f"dense_{i}": rng.lognormal(size=count).astype(np.float32) for i in range(13)}
        columns["label"] = (rng.random(count) < 0.25).astype(np.int8)
        write_sealed(pa.table(columns), folder / f"part-{file}.parquet", row_group_size=group_rows)


def _cardinality(feature: int) -> int:
    return int(10 ** (1 + feature / 5))
