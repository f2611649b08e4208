"""A trained model is evaluated on its own splits, or on other data: `shardrec evaluate`."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import undefined_in
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_bytes
from shardrec.trainer.catalogue.evaluation import CatalogueScorer, check_catalogue
from shardrec.trainer.checkpoints.restored import on_checkpoint
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.config.sections import Paths
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder.atomic import check_out, new_folder
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.scoring.curves import Columns, Curves, check_curves, found_curves
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.evaluation import scored
from shardrec.trainer.training.inspection import inspect_split

CURVES = "--curves"


def evaluate_run(
    run_folder: Path,
    data: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    rows: RowKind | None = None,
    curves: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Scores a run's validation and test rows, or those of `data`; returns metrics by split, the step and more.

    `undefined` says of metrics without a value why, `not_scored` why the run's own splits were left out: their rows
    have no labels; or they cannot be read or scored, and then they are in `failed` too. step: which checkpoint; None:
    the best, else the last. rows: how tables are held, as `Blueprint` takes it. curves: a new folder for the files of
    `Curves.fill`. None on further ranks of a torchrun.
    Raises UserError where there is nothing to score, or none of it can be, and for curves that a task does not have or
    that would replace something.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    check_catalogue(blueprint)
    if curves is not None:
        check_curves(blueprint)
        if leads():
            check_out(curves := absolute_folder(curves), CURVES)
    splits = splits_to_score(blueprint, folder, absolute(data))
    chosen, hold = hold_step(folder, step)
    logs = own_logs(folder, command_name("evaluate"), leads=leads(), reads=True)
    with hold, _new_folder(curves) as temporary, logs as logged:
        result = supervised(
            evaluate_worker, config, logged, quiet=quiet,
            splits=splits.paths, step=chosen, curves=curves is not None, blueprint=blueprint,
        )  # fmt: skip
        if result and temporary:
            Curves.of(result.pop("curves"), result["metrics"]).fill(temporary)
    if result is None:
        return None
    failed = splits.failed | result.pop("failed")
    not_scored = {name: f"its rows have no labels: {line}" for name, line in splits.unlabelled.items()} | failed
    return result | ({"not_scored": not_scored} if not_scored else {}) | ({"failed": list(failed)} if failed else {})


def _new_folder(curves: Path | None) -> AbstractContextManager[Path | None]:
    """Yields a folder for the leading process to fill, which becomes `curves`; else None."""
    launched = os.environ.get("TORCHELASTIC_RUN_ID")
    return new_folder(curves, option=CURVES, launch=launched) if curves is not None and leads() else nullcontext()


@dataclass
class Splits:
    """Splits to score are paths by name; of those that are left out there are lines that say why.

    unlabelled: their rows have no labels. failed: they were to be scored, and cannot be read.
    """

    paths: dict[str, Paths] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def splits_to_score(blueprint: Blueprint, folder: RunFolder, data: tuple[str, ...] = ()) -> Splits:
    """Returns what to score, inspected: the run's own validation and test rows, or `data`.

    Raises UserError where nothing is left to score.
    """
    splits: dict[str, Paths] = {"data": data} if data else {}
    for name in () if data else ("validation", "test"):
        if (paths := blueprint.config.data.split(name)) is not None:
            splits[name] = paths
    if not splits:
        raise UserError(f"{folder.address}: its data have no validation or test rows; name files with --data")
    found = Splits()
    for name, paths in splits.items():
        try:
            if line := blueprint.missing_labels(paths):
                found.unlabelled[name] = line
            else:
                inspect_split(blueprint, paths)
                found.paths[name] = paths
        except UserError as error:
            found.failed[name] = str(error)
    if not found.paths:
        raise _nothing_to_score(found)
    return found


def _nothing_to_score(splits: Splits) -> UserError:
    if splits.failed:
        return UserError(next(iter(splits.failed.values())))
    name, line = next(iter(splits.unlabelled.items()))
    return UserError(
        f"{'data' if name == 'data' else f'{name} rows'}: without labels there is nothing to measure: {line}; name "
        "others with --data, or score rows with `shardrec predict`"
    )


@on_checkpoint
def evaluate_worker(
    session: Session,
    folder: RunFolder,
    *,
    splits: dict[str, Paths],
    step: int,
    curves: bool = False,
) -> dict[str, Any]:
    """Does one worker's part of `evaluate_run`: the metrics of each split under the checkpoint of `step`.

    curves: there are also `curves`, as `Curves.of` takes them. `failed` says of splits why their rows could not be
    scored. Raises UserError where that is all of them.
    """
    progress = ProgressFile(folder.logs, enabled=session.environment.leads)
    lists = CatalogueScorer.of(session)
    metrics: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, Columns]] = {}
    failed, left_out, began = dict[str, str](), dict[str, int](), time.monotonic()
    for name, paths in splits.items():
        loader = session.loader(paths, skips_bad=True)
        on_batch = progress.counter(f"evaluating {name}", loader.steps_per_epoch)
        try:
            of_split = scored(session, loader, on_batch)
            metrics[name] = session.environment.broadcast(of_split.compute())
            left_out |= {name: loader.left_out} if loader.left_out else {}
            if lists is not None:
                metrics[name] |= lists.metrics(name, paths, progress.counter)
            if curves:
                found[name] = found_curves(of_split)
        except UserError as error:
            failed[name] = str(error)
            if len(failed) == len(splits):
                raise
    sizes = {} if session.blueprint.rows is None else {"table_bytes": frozen_bytes(session.model.tables)}
    undefined = {name: reasons for name, of in metrics.items() if (reasons := undefined_in(of))}
    return {
        "step": step,
        "metrics": metrics,
        **({"undefined": undefined} if undefined else {}),
        **({"left_out": left_out} if left_out else {}),
        **({"curves": found} if curves else {}),
        "failed": failed,
        "wall_seconds": time.monotonic() - began,
        **sizes,
    }
