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

    def __str__(self) -> str:
        """Returns what is asked, free and missing."""
        return (
            f"{self.asked} worker(s) ask for a {self.resource} each, {self.free} of {self.total} are free, "
            f"{self.missing} missing"
        )


def can_grow() -> bool:
    """Returns whether an autoscaler launches nodes for the cluster that this process is connected to."""
    return state.get_max_resources_from_cluster_config() is not None or any(
        node_type and not node_type.startswith(_BY_HAND) for node_type in _node_types()
    )


def _node_types() -> set[str]:
    """Returns the kinds of nodes that Ray's autoscalers tell, the second one by the nodes' labels."""
    if is_autoscaler_v2(fetch_from_server=True):
        return {node["Labels"].get(_NODE_GROUP, "") for node in ray.nodes()}
    with suppress(ValueError, KeyError, TypeError):
        return set(json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))["autoscaler_report"]["active_nodes"])
    return set()
