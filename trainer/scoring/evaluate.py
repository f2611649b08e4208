"""A trained model's metrics on its own splits, or on other data: the worker of `shardrec evaluate`."""

import time
from typing import Any

from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_bytes
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.evaluation import evaluate


def evaluate_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    splits: dict[str, Paths],
    step: int,
    rows: RowKind | None = None,
) -> dict[str, Any]:
    """`shardrec evaluate`: metrics of each split under the checkpoint of `step`."""
    from shardrec.trainer.checkpoints.checkpoint import restore

    progress = ProgressFile(folder.logs, enabled=environment.leads)
    session = Session.build(config, folder.schema(), environment, rows=rows)
    restore(folder.checkpoint(step), environment, session.distributed, session.tower, seed=config.trainer.seed)
    found, began = {}, time.monotonic()
    for name, paths in splits.items():
        loader = session.loader(paths)
        found[name] = evaluate(session, loader, progress.counter(f"evaluating {name}", loader.steps_per_epoch))
    held = {} if rows is None else {"table_bytes": frozen_bytes(session.model.tables)}
    return {"step": step, "metrics": found, "wall_seconds": time.monotonic() - began, **held}
