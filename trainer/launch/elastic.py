"""A group of workers on a cluster has as many as there is room for, and is made anew when that changes."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import state
from ray.train.v2._internal.execution.controller.state import ReschedulingState
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2.api.config import ScalingConfig

from shardrec.trainer.launch.capacity import Capacity, no_room, room
from shardrec.trainer.launch.leaving import ask_to_regroup

LOOKS_EVERY = 1.0  # seconds, while a run waits for room


class ElasticPolicy(ScalingPolicy):
    """The policy starts as many workers as there is room for, and asks them to leave when there is room for more.

    Who leaves has made a checkpoint, so that no step is done again. Workers that are lost end their group, and the next
    one has as many as are left room for.

    patience: seconds that a run may be without workers, for want of room or since they do not start.
    """

    def __init__(self, scaling_config: ScalingConfig, *, patience: float) -> None:
        super().__init__(scaling_config)
        self._patience = patience
        self._each: Mapping[str, float] = scaling_config._resources_per_worker_not_none
        self._strategy: Any = scaling_config.placement_strategy
        self._held: Mapping[str, int] | None = {}
        self._looked = self._waits_since = 0.0

    def after_controller_start(self, train_run_context: Any) -> None:
        """Begins to count time, on the machine of the controller: clocks of two machines have nothing in common."""
        self._looked = self._waits_since = time.monotonic()
        super().after_controller_start(train_run_context)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Returns the size of the next group. Raises UserError where there have been no workers for too long."""
        self._maybe_send_resource_request()
        if time.monotonic() - self._waits_since > self._patience:
            capacity = Capacity.of_ray(self.scaling_config.min_workers, self._each, self._strategy)
            raise no_room(capacity, self._patience)
        possible = min(self.scaling_config.max_workers, self._room())
        if possible >= self.scaling_config.min_workers:
            return ResizeDecision(possible, dict(self._each))
        time.sleep(LOOKS_EVERY)  # the controller asks again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Asks the workers to leave, now and then, where there is room for more of them; that makes a new group."""
        self._maybe_send_resource_request()
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        now = time.monotonic()
        self._waits_since = now
        if now - self._looked >= self.scaling_config.elastic_resize_monitor_interval_s:
            self._looked = now
            if min(self.scaling_config.max_workers, self._room()) > worker_group_state.num_workers:
                for worker in worker_group_state.workers:
                    worker.execute_async(ask_to_regroup)
        return NoopDecision()

    def on_controller_start_worker_group(self, *, scaling_config: ScalingConfig, num_workers: int) -> None:
        """Takes up that a group starts, of which it is not yet known where it will be."""
        self._held = None
        self._looked = time.monotonic()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Takes up that a group did not start, and has nothing any more."""
        if isinstance(current_state, ReschedulingState):
            self._held = {}

    def _get_num_workers_for_resource_request(self) -> int:
        return self.scaling_config.max_workers

    def _room(self) -> int:
        """Returns how many workers there is room for once the present group is gone, but on machines about to go."""
        going = state.get_draining_nodes()
        there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        free = there if self._held is None else state.available_resources_per_node()
        nodes = [self._with_own(name, free.get(name, {})) for name in there.keys() - going.keys()]
        return room(nodes, self._each, self._strategy)

    def _with_own(self, node: str, free: Mapping[str, float]) -> dict[str, float]:
        """Returns what a machine has left, and what the present group's workers on it have."""
        own = 0 if self._held is None else self._held.get(node, 0)
        return {name: free.get(name, 0.0) + own * amount for name, amount in self._each.items()}
