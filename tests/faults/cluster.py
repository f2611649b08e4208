"""A Ray cluster of several machines, all on this one: it is kept for many trials, and its machines come and go."""

from collections.abc import Sequence
from typing import Any

import psutil
from ray.cluster_utils import Cluster

STORE = 80 << 20  # bytes of a machine's object store
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""How soon the cluster misses a machine that is lost: within seconds."""

OF_RUNS = ("RayTrainWorker", "TrainController")
"""What the actors of a run are called, which are to be gone with it."""


def cluster_of(machines: Sequence[int]) -> Cluster:
    """Returns a cluster of machines with so many cores each."""
    head: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": machines[0], **head})
    for cores in machines[1:]:
        cluster.add_node(num_cpus=cores, object_store_memory=STORE)
    return cluster


def actors(name: str) -> list[psutil.Process]:
    """Returns the processes of the actors of some name, of the clusters that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()[:1]) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
