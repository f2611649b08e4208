"""`shardrec bench bundle` measures how fast a bundle scores rows, as a service would, and what of it is reading."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.finding import find_files
from shardrec.trainer.export.loader import Bundle, RowError

BATCHES = (1, 32, 1024)
WARM = 3  # calls that are not counted: they open tables and programs


def benchmark_bundle(
    folder: Path,
    data: Sequence[str],
    *,
    prepared: bool = False,
    threads: int = 1,
    seconds: float = 2.0,
    candidates: int = 1000,
) -> list[dict[str, Any]]:
    """Returns a line for each batch size and for `candidates` candidates of one row: rows/s, and p50 and p99 in ms.

    data: Parquet files of the rows that are scored, which come as dictionaries, other ones in each call. prepared: they
    are as preparation wrote them. seconds: how long each is measured. Raises UserError for no bundle and for rows that
    it cannot read.
    """
    try:
        bundle = Bundle(folder, threads=threads, prepared=prepared)
        rows = _rows(bundle, data)
        lines = [
            {"call": f"score, {size}", **_measured(bundle.score, rows, size, seconds)}
            | {"reading_p50_ms": _measured(bundle.read, rows, size, seconds / 4)["p50_ms"]}
            for size in BATCHES
        ]
        context = {c: rows[0][c] for c in bundle.context_columns}
        varying = [{c: row[c] for c in bundle.item_columns} for row in rows]

        def of_one(some: Sequence[Mapping[str, Any]]) -> Any:
            return bundle.score_candidates(context, some)

        def as_rows(some: Sequence[Mapping[str, Any]]) -> Any:
            return bundle.score([{**context, **row} for row in some])

        for name, call in (("score_candidates", of_one), ("the same, as rows", as_rows)) if bundle.item_columns else ():
            lines.append({"call": f"{name}, {candidates}", **_measured(call, varying, candidates, seconds)})
    except RowError as error:
        raise UserError(f"{', '.join(data)}: {error}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return lines


def _rows(bundle: Bundle, data: Sequence[str]) -> list[dict[str, Any]]:
    """Returns up to 20,000 rows of the columns that a bundle reads."""
    rows: list[dict[str, Any]] = []
    for file in find_files(list(data)):
        with pq.ParquetFile(file.path) as opened:
            names = opened.schema_arrow.names
            columns = [c for c in names if c in bundle.columns] or names  # the bundle says what it expects
            for batch in opened.iter_batches(4096, columns=columns):
                rows += batch.to_pylist()
                if len(rows) >= 20_000:
                    return rows
    if not rows:
        raise UserError(f"{', '.join(data)}: no rows to score")
    return rows


def _measured(call: Callable[[Any], Any], rows: Sequence[Any], size: int, seconds: float) -> dict[str, float]:
    """Calls with `size` rows at a time, other ones each time, for so many seconds."""
    took: list[float] = []
    at = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(took) < WARM + 5:
        some = [rows[(at + i) % len(rows)] for i in range(size)]
        at += size
        start = time.perf_counter()
        call(some)
        took.append(time.perf_counter() - start)
    counted = np.array(took[WARM:]) * 1e3
    p50, p99 = np.percentile(counted, [50, 99])
    return {"rows_per_s": size / counted.mean() * 1e3, "p50_ms": float(p50), "p99_ms": float(p99)}
