"""Ray Train runs here with nothing in the way of a run's first step.

Ray Train's own TorchTrainer loads torch in its controller, and starts an actor each for data sets, for the cluster's
autoscaler, for placement groups that a dead controller might leave behind, and for checkpoints that workers report to
Ray. Here the controller hands the workers their addresses, with which they make the process group themselves, and a
local Ray, which lasts no longer than its run, goes without these actors. No module that is named here loads torch.
"""

import ipaddress
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray import train
from ray.train import BackendConfig, Result
from ray.train.backend import Backend
from ray.train.v2._internal.execution.failure_handling import FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, ScalingPolicy
from ray.train.v2._internal.execution.worker_group import state, worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

UNUSED = frozenset({"DatasetsCallback"})
"""Callbacks of Ray Train that start actors for what is never asked of it."""

ABORT_SECONDS = 30.0  # that workers may take to stop after Ctrl-C

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Where workers of one machine meet on its loopback address, their collectives listen nowhere else either."""

UNUSED_LOCALLY = UNUSED | {"PlacementGroupCleanerCallback"}


class AddressBackend(Backend):
    """The backend tells every worker, as torchrun does, where the first one waits for the others, and which it is."""

    share_cuda_visible_devices = True  # as Ray's own backend for torch: GPUs of one machine reach each other

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Sets the environment variables that torch.distributed reads."""
        address, port = worker_group.execute_single(0, free_address)
        worker_group.execute(set_variables, address, port)


@dataclass
class AddressConfig(BackendConfig):
    """The configuration asks for `AddressBackend`."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Returns the backend."""
        return AddressBackend


class NoActor:
    """The place of an actor that is not started."""

    @classmethod
    def options(cls, **_: Any) -> "NoActor":
        """Takes an actor's options."""
        return cls()

    def remote(self, **_: Any) -> "NoActor":
        """Starts nothing."""
        return self


class LocalScalingPolicy(FixedScalingPolicy):
    """The policy keeps a fixed number of workers, and tells no autoscaler of them."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks for nothing, since the workers' cores are there; and has the workers do without an actor of Ray's.

        By that actor they would agree on checkpoints that they report to Ray.
        """
        worker_group.SynchronizationActor = NoActor  # type: ignore[assignment,misc]
        state._shutdown_sync_actor = lambda sync_actor: None

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """A trainer runs a function on all workers, and again from the top when one of them died.

    local: whether Ray was started for this run and ends with it. scaling: the policy on a cluster; None: a fixed number
    of workers. failures: the policy that decides on restarts.
    """

    def __init__(
        self,
        *arguments: Any,
        local: bool,
        scaling: ScalingPolicy | None = None,
        failures: FailurePolicy,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, backend_config=AddressConfig(), **settings)
        self._local, self._scaling, self._failures = local, scaling, failures
        self._controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        unused = UNUSED_LOCALLY if self._local else UNUSED
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]

    def fit(self) -> Result:
        """Runs the function to its end. Ctrl-C stops the workers and is raised as everywhere else."""
        try:
            return super().fit()
        except KeyboardInterrupt:
            if self._controller is not None:
                with suppress(Exception):  # it ends itself, and whoever asks is told that it is gone
                    ray.get(self._controller.abort.remote(), timeout=ABORT_SECONDS)
            raise

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to Python: Ray's own handler outlives the run, and ends the process instead of raising."""
        self._controller = controller

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        if self._local:
            settings["scaling_policy"] = LocalScalingPolicy(settings["scaling_policy"].scaling_config)
        elif self._scaling is not None:
            settings["scaling_policy"] = self._scaling
        settings["failure_policy"] = self._failures
        return super()._initialize_and_run_controller(**settings)


def free_address() -> tuple[str, int]:
    """Returns this node's address and a port that is free there."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        free.bind(("", 0))
        return address, free.getsockname()[1]


def set_variables(address: str, port: int) -> None:
    """Sets what torch.distributed and TorchRec read about this worker."""
    context = train.get_context()
    for name in INTERFACE_VARIABLES if ipaddress.ip_address(address).is_loopback else ():
        os.environ.setdefault(name, interface_of(address))
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )


def interface_of(address: str) -> str:
    """Returns the name of this machine's network interface that has an address."""
    found = (name for name, addresses in psutil.net_if_addrs().items() if address in [a.address for a in addresses])
    return next(found, "lo")
