"""Scores a split with the tables as they are; training goes on afterwards as if nothing had happened."""

from collections.abc import Callable

import torch

from shardrec.data_pipeline.loading.loader import Loader
from shardrec.sharding.tables.collective import ProcessGroupCollective
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
