"""Scores for every row of some files, beside their key columns, as Parquet: all of it or nothing."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from models.inputs import Jagged
from trainer.checkpoint import restore
from trainer.config import RunConfig
from trainer.environment import Environment
from trainer.inspection import inspect_split
from trainer.progress import ProgressFile
from trainer.run_folder import RunFolder
from trainer.session import Session
from trainer.supervision import leads, supervised

SCORE = "prediction"


def predict_rows(
    run_folder: Path,
    data: tuple[str, ...],
    out: Path,
    keys: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Writes `out/part-RANK.parquet`: `row` (place in the data), the keys, and `prediction` (a list, where the model
    answers with lists), in file order per worker.

    Raises UserError where `out` is not empty, or data or keys cannot be read; then `out` is left as it was.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    keys = keys or folder.schema().keys
    inspect_split(folder.schema().unlabelled(), data, folder.path, keys)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty; name another --out")
    if taken := {"row", SCORE} & set(keys):
        raise UserError(f"--keys {min(taken)}: predictions have a column of that name already; leave it out")
    launched = os.environ.get("TORCHELASTIC_RUN_ID") or uuid.uuid4().hex  # all ranks of torchrun write into one folder
    temporary = out.resolve().parent / f".{out.name}.{launched}.tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        result = supervised(
            predict_worker, config, folder, quiet=quiet,
            data=data, out=str(temporary), keys=keys, step=folder.choose_step(step),
        )  # fmt: skip
        if out.exists():
            out.rmdir()
        os.rename(temporary, out)
    finally:
        if leads():
            shutil.rmtree(temporary, ignore_errors=True)
    return result


def predict_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    data: tuple[str, ...],
    out: str,
    keys: tuple[str, ...],
    step: int,
) -> dict[str, Any]:
    """One worker's share of the rows: streamed into a file of its own."""
    progress = ProgressFile(folder.logs, enabled=environment.leads)
    session = Session.build(config, folder.schema(), environment)
    restore(folder.checkpoint(step), environment, session.distributed, session.tower, seed=config.trainer.seed)
    session.distributed.module.eval()
    loader = session.loader(data, labelled=False, keys=keys)
    done = progress.counter("scoring", loader.steps_per_epoch)
    writer: pq.ParquetWriter | None = None
    rows = 0
    with torch.no_grad():
        for index, (batch, columns) in enumerate(loader.epoch_with_columns(0), start=1):
            output = session.distributed.module(batch.to(environment.device))
            scores = _column(session.model.task.prediction(output), batch.live)
            table = pa.table({"row": batch.rows[batch.live].numpy(), **_by_name(columns), SCORE: scores})
            writer = writer or pq.ParquetWriter(f"{out}/part-{environment.rank:05d}.parquet", table.schema)
            writer.write_table(table)
            rows += table.num_rows
            done(index)
    if writer is not None:
        writer.close()
    return {"rows": sum(environment.gather(rows)), "step": step}


def _column(prediction: Tensor | Jagged, live: Tensor) -> pa.Array:
    """Of the live rows: their numbers, or lists of numbers. Padding rows come last and have empty lists."""
    if isinstance(prediction, Tensor):
        numbers = prediction.float().cpu()[live].numpy()
        if numbers.ndim == 1:
            return pa.array(numbers)
        rows, columns = numbers.shape
        return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * columns, numbers.ravel())
    offsets = prediction.offsets.cpu()[: int(live.sum()) + 1]
    return pa.ListArray.from_arrays(offsets.int().numpy(), prediction.values.float().cpu().numpy())


def _by_name(columns: pa.Table) -> dict[str, Any]:
    return dict(zip(columns.column_names, columns.columns, strict=True))
