"""What a run asks of Ray is compared with what Ray has: workers beyond that would wait without a word, or for ever."""

import json
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

_BY_HAND = format_readonly_node_type("")  # begins the kind of a node that no autoscaler launched
_NODE_GROUP = "ray.io/node-group"


@dataclass(frozen=True)
class Capacity:
    """A capacity is what a run's workers ask for, one `resource` (CPU or GPU) each, beside what Ray has of it."""

    resource: str
    asked: int
    total: int
    free: int

    @classmethod
    def of_ray(cls, workers: int, *, use_gpu: bool) -> "Capacity":
        """Looks at the Ray that this process is connected to."""
        resource = "GPU" if use_gpu else "CPU"
        total, free = (int(found.get(resource, 0)) for found in (ray.cluster_resources(), ray.available_resources()))
        return cls(resource, workers, total, free)

    @property
    def missing(self) -> int:
        """Returns how many workers there is no room for now."""
        return max(0, self.asked - self.free)

    @property
    def fits(self) -> bool:
        """Returns whether there is room for all workers once nobody else is there."""
        return self.asked <= self.total

    def __str__(self) -> str:
        """Returns what is asked, free and missing."""
        return (
            f"{self.asked} worker(s) ask for a {self.resource} each, {self.free} of {self.total} are free, "
            f"{self.missing} missing"
        )


def can_grow() -> bool:
    """Returns whether an autoscaler launches nodes for the cluster that this process is connected to."""
    if state.get_max_resources_from_cluster_config() is not None:
        return True
    if is_autoscaler_v2(fetch_from_server=True):
        return any(node["Labels"].get(_NODE_GROUP) for node in ray.nodes())
    return names_launched_nodes(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")


def names_launched_nodes(status: bytes) -> bool:
    """Returns whether a report of Ray's first autoscaler names a node of a kind that it launches.

    It reports on clusters without autoscaling too, as one kind a node.
    """
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        report = json.loads(status)["autoscaler_report"]
        kinds = {*report["active_nodes"], *(report["node_type_mapping"] or {}).values()}
        return any(not kind.startswith(_BY_HAND) for kind in kinds)
    return False
