"""Scores a split with the tables as they are; training goes on afterwards as if nothing had happened."""

import time
from collections.abc import Callable
from typing import Any

import torch

from shardrec.data_pipeline.loading.loader import Loader
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_bytes
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.session.session import Session


def evaluate(session: Session, loader: Loader, on_batch: Callable[[int], None] = lambda step: None) -> dict[str, float]:
    """The task's metrics over all rows of `loader`, the same on every rank. `on_batch` hears of each finished step."""
    module = session.distributed.module
    metrics = session.model.task.metrics(ProcessGroupCollective())
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for step, batch in enumerate(loader.epoch(0), start=1):
                session.model.task.check(batch)
                batch = batch.to(session.environment.device)
                metrics.update(module(batch), batch)
                on_batch(step)
    finally:
        module.train(was_training)
    return metrics.compute()


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
