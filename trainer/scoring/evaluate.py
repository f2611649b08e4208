"""A trained model is evaluated on its own splits, or on other data: `shardrec evaluate`."""

import time
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_bytes
from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.config.paths import absolute
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
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

    step: which checkpoint; None: the best, else the last. rows: how tables are held, as `Blueprint` takes it. None on
    the further ranks of a torchrun. Raises UserError where there is nothing to score, or it cannot be read.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    splits = splits_to_score(blueprint, folder, absolute(data))
    chosen = folder.choose_step(step)
    return supervised(evaluate_worker, config, folder, splits=splits, step=chosen, blueprint=blueprint, quiet=quiet)


def splits_to_score(blueprint: Blueprint, folder: RunFolder, data: tuple[str, ...] = ()) -> dict[str, Paths]:
    """Returns paths by split: the run's own validation and test rows, or `data`, inspected.

    Raises UserError where there are none, or they cannot be scored.
    """
    own = {name: blueprint.config.data.split(name) for name in ("validation", "test")}
    splits: dict[str, Paths] = {name: paths for name, paths in own.items() if paths is not None}
    if data:
        splits = {"data": data}
    if not splits:
        raise UserError(f"{folder.path}: its data have no validation or test rows; name files with --data")
    for paths in splits.values():
        inspect_split(blueprint, paths)
    return splits


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
    return {"step": step, "metrics": metrics, "wall_seconds": time.monotonic() - began, **sizes}
