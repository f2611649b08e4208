"""Every row of some files gets a score, beside its key columns, as Parquet: all of it or nothing."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from shardrec import models
from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import NO_ROOM
from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.base import Explanation
from shardrec.models.inputs import Jagged
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.checkpoints.calibration import Calibration, calibration_of
from shardrec.trainer.checkpoints.restored import on_checkpoint
from shardrec.trainer.config.import_path import make_importable
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder.atomic import new_folder
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import Inputs
from shardrec.trainer.session.scoring_pass import ScoringPass
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.inspection import inspect_split

ROW, SCORE = "row", "prediction"
WEIGHTS, NAMES = "weights", "weights_of"  # what `explain` adds


def predict_rows(
    run_folder: Path,
    data: tuple[str, ...],
    out: Path,
    keys: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    explain: bool = False,
    calibrated: bool = False,
    rows: RowKind | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Writes `out/part-RANK.parquet`: `row` (place in the data), the keys, and `prediction` (a list, where the model
    answers with lists), in file order per worker. With `explain` also two lists, equally long in a row: `weights` and
    `weights_of`, the names of what each belongs to (as many in all rows), or the ids of a history's events in order.
    `calibrated`: predictions are those of the run folder's calibration. `rows`: how tables are held, as `Blueprint`
    takes it.

    Raises UserError where `out` is not empty, data or keys cannot be read, the model explains nothing, or the step is
    not calibrated; then `out` is left as it was.
    """
    folder = RunFolder.open(run_folder)
    data, out = absolute(data), absolute_folder(out)
    config = folder.config(overrides)
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    keys = keys or blueprint.schema.keys
    check_predictions(blueprint, data, keys, explain=explain)
    launched = os.environ.get("TORCHELASTIC_RUN_ID")  # all ranks of a torchrun write into one folder
    chosen, hold = hold_step(folder, step)
    calibration = calibration_of(folder, chosen, calibrated, "leave out --calibrated")
    logs = own_logs(folder, command_name("predict"), leads=leads(), reads=True)
    with hold, new_folder(out, launch=launched, leads=leads()) as temporary, logs as folder:
        return supervised(
            predict_worker, config, folder, quiet=quiet,
            data=data, out=str(temporary), keys=keys, step=chosen, explain=explain, calibration=calibration,
            blueprint=blueprint,
        )  # fmt: skip


def check_predictions(blueprint: Blueprint, data: tuple[str, ...], keys: tuple[str, ...], *, explain: bool) -> None:
    """Raises UserError where a model explains nothing, data or keys cannot be read, or a key takes a result's name."""
    if explain:
        _check_explains(blueprint.config)
    inspect_split(blueprint, data, keys, labelled=False)
    if taken := {ROW, SCORE, *((WEIGHTS, NAMES) if explain else ())} & set(keys):
        raise UserError(f"--keys {min(taken)}: predictions have a column of that name already; leave it out")


def _check_explains(config: RunConfig) -> None:
    make_importable(config)
    name = config.model["name"]
    if models.resolve(name).explain is None:
        raise UserError(
            f"--explain: model {name} has no weights that would explain its scores; leave it out, or train one of: "
            + ", ".join(models.explaining())
        )


@on_checkpoint
def predict_worker(
    session: Session,
    folder: RunFolder,
    *,
    data: tuple[str, ...],
    out: str,
    keys: tuple[str, ...],
    step: int,
    explain: bool,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Scores one worker's share of the rows, streamed into a file of its own."""
    progress = ProgressFile(folder.logs, enabled=session.environment.leads)
    loader = session.loader(data, labelled=False, keys=keys)
    on_batch = progress.counter("scoring", loader.steps_per_epoch)
    scores = scored_batches(session, loader, explain=explain, calibration=calibration, on_batch=on_batch)
    part = f"{out}/part-{session.environment.rank:05d}.parquet"
    row_count = written(scores, part, **({} if explain else {"use_dictionary": list(keys)}))
    return {"rows": sum(session.environment.gather(row_count)), "step": step}


def written(tables: Generator[pa.Table], part: str, **options: Any) -> int:
    """Writes tables to a file, each while the next is made, and returns their rows.

    options: those of `SealedWriter`.

    Raises UserError, also for a full disk: a launcher would try any other error again.
    """
    writer: SealedWriter | None = None
    writing: Future[None] | None = None
    row_count = 0
    try:
        with closing(tables), ThreadPoolExecutor(1, "shardrec-write") as thread:
            for table in tables:
                if writing is not None:
                    writing.result()
                writer = writer or SealedWriter(part, table.schema, **options)
                writing = thread.submit(writer.write_table, table)
                row_count += table.num_rows
            if writing is not None:
                writing.result()
        if writer is not None:
            writer.close()
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"{part}: no space left on the device; nothing was kept; make room, or name another --out"
        ) from error
    return row_count


def scored_batches(
    session: Session,
    loader: Loader,
    *,
    explain: bool = False,
    calibration: Calibration | None = None,
    on_batch: Callable[[int], None] = lambda step: None,
) -> Generator[pa.Table]:
    """Scores this worker's rows batch by batch: tables of `row`, the loader's extra columns, and `prediction`.

    That is calibrated where a calibration is given. With `explain` they have `weights` and `weights_of` too.
    `on_batch` hears of each finished step. Raises UserError, on all ranks alike, for rows of any rank that cannot be
    read.
    """

    def score(inputs: Inputs, batch: Batch) -> dict[str, pa.Array]:
        if explain:
            output, explanation = session.forward.explained(inputs, batch)
        else:
            output, explanation = session.forward.output(inputs, batch), None
        scores = _column(session.model.task.prediction(output), batch.live)
        if calibration is not None:
            scores = pa.array(calibration(scores.to_numpy()), pa.float32())
        return {SCORE: scores} | ({} if explanation is None else explained(explanation, batch))

    for step, (batch, columns, scores) in enumerate(ScoringPass(session, loader, score), start=1):
        yield pa.table({ROW: batch.rows[batch.live].cpu().numpy(), **_by_name(columns), **scores})
        on_batch(step)


def _column(prediction: Tensor | Jagged, live: Tensor) -> pa.Array:
    """Returns the live rows' numbers, or lists of numbers. Padding rows come last and have empty lists."""
    if isinstance(prediction, Tensor):
        numbers = prediction.float()[live].cpu().numpy()
        if numbers.ndim == 1:
            return pa.array(numbers)
        rows, columns = numbers.shape
        return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * columns, numbers.ravel())
    offsets = prediction.offsets.cpu()[: int(live.sum()) + 1]
    return pa.ListArray.from_arrays(offsets.int().numpy(), prediction.values.float().cpu().numpy())


def explained(explanation: Explanation, batch: Batch) -> dict[str, pa.Array]:
    """Returns the weights of the live rows and, as long a list in each row, what they belong to."""
    weights = _column(explanation.weights, batch.live)
    if isinstance(explanation.weights, Jagged):
        (sequence,) = explanation.names
        values = pa.array(batch.ids[sequence].values().cpu().numpy())
    else:
        each = np.tile(np.arange(len(explanation.names)), len(weights))
        values = pa.array(explanation.names).take(pa.array(each))
    return {WEIGHTS: weights, NAMES: pa.ListArray.from_arrays(weights.offsets, values)}


def _by_name(columns: pa.Table) -> dict[str, Any]:
    return dict(zip(columns.column_names, columns.columns, strict=True))
