"""A pipeline is how far batches are prepared ahead of a run's steps, and how late its losses are read.

Neither changes a bit of what is trained. Where nothing would run meanwhile, both are 0.
"""

from typing import NamedTuple

from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment


class Pipeline(NamedTuple):
    """ahead: batches that are prepared before their turn. late: steps by which losses are read after theirs."""

    ahead: int
    late: int


OF_GPU = Pipeline(ahead=2, late=1)
"""One batch is being copied while the ids of the one before it are exchanged; the host is a step ahead of the GPU."""

OF_SEVERAL_CPUS = Pipeline(ahead=1, late=0)
"""Ids and counts are exchanged while a step computes. Losses are there when a CPU has computed them."""


def pipeline(config: RunConfig, environment: Environment) -> Pipeline:
    """Returns a run's pipeline: its batches ahead are among `data.prefetch`, of which one is left to be made."""
    on_gpu = environment.device.type == "cuda"
    if not config.trainer.pipeline or (not on_gpu and environment.world_size == 1):
        return Pipeline(0, 0)
    most = OF_GPU if on_gpu else OF_SEVERAL_CPUS
    return most._replace(ahead=max(0, min(most.ahead, config.data.prefetch - 1)))
