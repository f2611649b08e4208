"""A run's workers are known before they start: how many there will be, with what memory and rates for tables."""

from dataclasses import replace

import torch.distributed as dist

from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import choose_backend
from shardrec.trainer.launch.cores import worker_count
from shardrec.trainer.launch.environment import Environment, check_found, resolve_device


def expected_environment(launch: LaunchConfig) -> Environment:
    """Returns this process's place among a run's workers; where they are still to be started, the first one's.

    Raises UserError where they would compute here, on GPUs, and there are none.
    """
    backend, device = choose_backend(launch), resolve_device(launch.device)
    if backend != "ray":
        check_found(device)
    if backend == "torchrun":
        return Environment.from_variables(launch.device)
    world_size = worker_count(launch)
    return Environment(0, world_size, 0, world_size, device)


def run_topology(config: RunConfig, environment: Environment | None = None) -> Topology:
    """Returns a run's workers, with the memory and the rates that the run file says or that are found here."""
    environment = environment or expected_environment(config.launch)
    local = environment.local_world_size
    topology = Topology.here(environment.world_size, local, environment.device)
    if config.launch.memory is not None:
        topology = replace(topology, memory_per_rank=config.launch.memory // local)
    if topology.host_memory is not None:
        topology = replace(topology, host_memory=max(0, topology.host_memory - local * config.data.memory))
    topology = replace(topology, **config.launch.rates.model_dump(exclude_none=True), exchange=config.trainer.exchange)
    return topology.agreed() if dist.is_initialized() else topology
