"""What a run asks of Ray is compared with what Ray has: workers beyond that would wait without a word, or for ever."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError, printable

_BY_HAND = format_readonly_node_type("")  # begins the kind of a node that no autoscaler launched
_NODE_GROUP = "ray.io/node-group"
_ROUNDING = 1e-4  # Ray's unit of any resource


Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
_TOGETHER = {"STRICT_PACK": ", all on one machine", "STRICT_SPREAD": ", each on a machine of its own"}


@dataclass(frozen=True)
class Capacity:
    """A capacity is how many workers of a run Ray has room for, in all and now, of `asked` that ask for `each`."""

    each: Mapping[str, float]
    strategy: Strategy
    asked: int
    total: int
    free: int
    lacking: str | None = None

    @classmethod
    def of_ray(cls, workers: int, each: Mapping[str, float], strategy: Strategy) -> "Capacity":
        """Looks at the Ray that this process is connected to.

        lacking: of what no machine has enough for a single worker.
        """
        totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free = state.available_resources_per_node().values()
        most = {name: max((node.get(name, 0) for node in totals), default=0) for name in each}
        lacking = next((name for name, amount in each.items() if most[name] < amount), None)
        return cls(each, strategy, workers, room(totals, each, strategy), room(free, each, strategy), lacking)

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
        what, together = self._what, _TOGETHER.get(self.strategy, "")
        alone = f"{self.free} of {self.total} are free"
        found = (
            alone
            if what.startswith("a ") and not together
            else f"there is room for {self.free} now and {self.total} in all"
        )
        return f"{self.asked} worker(s) ask for {what} each{together}, {found}, {self.missing} missing"

    @property
    def _what(self) -> str:
        """Returns what a worker asks for: `a GPU`, or `4 CPU, 1 GPU and 64.0 GiB of memory`."""
        if self.each in ({"CPU": 1}, {"GPU": 1}):
            return f"a {next(iter(self.each))}"
        texts = [
            f"{readable(int(amount))} of memory" if name == "memory" else f"{amount:g} {printable(name)}"
            for name, amount in self.each.items()
        ]
        return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def room(nodes: Iterable[Mapping[str, float]], each: Mapping[str, float], strategy: Strategy) -> int:
    """Returns how many workers there is room for on nodes with so much of each resource."""
    by_node = [min(int(node.get(name, 0) / amount + _ROUNDING) for name, amount in each.items()) for node in nodes]
    if strategy == "STRICT_PACK":
        return max(by_node, default=0)
    return sum(count > 0 for count in by_node) if strategy == "STRICT_SPREAD" else sum(by_node)


def no_room(capacity: Capacity, waited: float) -> UserError:
    """Returns the error of a run that has waited for so many seconds."""
    return UserError(
        f"launch.workers: {capacity} after {waited:g} s; ask for fewer, free some, or wait longer by "
        "launch.start_timeout"
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
