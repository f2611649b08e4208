"""A trained model is evaluated on its own splits, or on other data: `shardrec evaluate`."""

import time
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import undefined_in
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_bytes
from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.config.paths import absolute
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.evaluation import evaluate
from shardrec.trainer.training.inspection import inspect_split


def evaluate_run(
    run_folder: Path,
    data: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    rows: RowKind | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Scores a run's validation and test rows, or those of `data`; returns metrics by split, the step and more.

    `undefined` says of metrics without a value why, `not_scored` why splits were left out: their rows have no labels.
    step: which checkpoint; None: the best, else the last. rows: how tables are held, as `Blueprint` takes it. None on
    the further ranks of a torchrun. Raises UserError where there is nothing to score, or it cannot be read.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    splits, not_scored = splits_to_score(blueprint, folder, absolute(data))
    chosen, hold = hold_step(folder, step)
    with hold, own_logs(folder, command_name("evaluate"), leads=leads(), reads=True) as logged:
        result = supervised(
            evaluate_worker, config, logged, splits=splits, step=chosen, blueprint=blueprint, quiet=quiet
        )
    return result and result | ({"not_scored": not_scored} if not_scored else {})


def splits_to_score(
    blueprint: Blueprint, folder: RunFolder, data: tuple[str, ...] = ()
) -> tuple[dict[str, Paths], dict[str, str]]:
    """Returns paths by split, inspected: the run's own validation and test rows, or `data`; and what it leaves out.

    The run's own splits without labels are left out, each with a line that says so. Raises UserError where nothing is
    left to score, or it cannot be scored.
    """
    splits: dict[str, Paths] = {"data": data} if data else {}
    for name in () if data else ("validation", "test"):
        if (paths := blueprint.config.data.split(name)) is not None:
            splits[name] = paths
    if not splits:
        raise UserError(f"{folder.path}: its data have no validation or test rows; name files with --data")
    missing = {name: line for name, paths in splits.items() if (line := blueprint.missing_labels(paths))}
    if len(missing) == len(splits):
        name, line = next(iter(missing.items()))
        raise UserError(
            f"{'data' if data else f'{name} rows'}: without labels there is nothing to measure: {line}; name others "
            "with --data, or score rows with `shardrec predict`"
        )
    for name in missing:
        del splits[name]
    for paths in splits.values():
        inspect_split(blueprint, paths)
    return splits, {name: f"its rows have no labels: {line}" for name, line in missing.items()}


def evaluate_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    splits: dict[str, Paths],
    step: int,
    blueprint: Blueprint | None = None,
) -> dict[str, Any]:
    """Does one worker's part of `evaluate_run`: the metrics of each split under the checkpoint of `step`."""
    progress = ProgressFile(folder.logs, enabled=environment.leads)
    blueprint = blueprint or Blueprint(config, folder.schema())
    session = Session.build(blueprint, environment)
    restore(folder.checkpoint(step), session)
    metrics, began = {}, time.monotonic()
    for name, paths in splits.items():
        loader = session.loader(paths)
        metrics[name] = evaluate(session, loader, progress.counter(f"evaluating {name}", loader.steps_per_epoch))
    sizes = {} if blueprint.rows is None else {"table_bytes": frozen_bytes(session.model.tables)}
    undefined = {name: reasons for name, of in metrics.items() if (reasons := undefined_in(of))}
    return {
        "step": step,
        "metrics": metrics,
        **({"undefined": undefined} if undefined else {}),
        "wall_seconds": time.monotonic() - began,
        **sizes,
    }
