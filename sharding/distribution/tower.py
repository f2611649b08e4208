"""A tower is replicated: its gradients are averaged over ranks in messages, sent as soon as backward has filled them.

Gradients lie in the same places of their messages in every step. DistributedDataParallel itself would place them anew
after the first step of a process. Where in a message a number lies says in which order three ranks or more add it up,
so that a run that goes on would differ from one that was never stopped by rounding.
"""

import warnings

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv


class ReplicatedTower(DistributedDataParallel):
    """A module that is the same on all ranks, with gradients in messages from its last parameter to its first.

    That is about the order in which backward comes to them. Messages are sent in that of their places, so that in the
    order of the parameters all would wait for the gradient that comes last.
    """

    def __init__(self, module: torch.nn.Module, **settings: object) -> None:
        """settings: DistributedDataParallel's."""
        super().__init__(module, **settings)  # type: ignore[arg-type]
        self.reducer._push_all_rebuilt_params()
        self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[Tensor], list[bool]]:
        parameters, are_sparse = super()._build_params_for_reducer()
        return parameters[::-1], are_sparse[::-1]


class TowerWrapper(DefaultDataParallelWrapper):
    """Makes a ReplicatedTower of what DistributedModelParallel does not shard."""

    def _ddp_wrap(
        self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device, ddp_ignore_param_names: set[str]
    ) -> None:
        module = dmp._dmp_wrapped_module
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            module=module, params_and_buffers_to_ignore=ddp_ignore_param_names
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # renamed in torch 2.13
            dmp._dmp_wrapped_module = ReplicatedTower(
                module.to(device),
                device_ids=None if device.type == "cpu" else [device],
                process_group=env.process_group,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
                static_graph=True,  # parameters that a loss never reaches hang nobody; buffers are each rank's own
            )
